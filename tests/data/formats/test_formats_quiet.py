import os
import subprocess
import sys
import threading

import numpy as np
from data_builders import encoded

from diffmem.data.formats.decode import quiet

NOISY = """
import sys
from pathlib import Path
from PIL import Image
from diffmem.data import open_images
from diffmem.errors import UserError

if sys.argv[2] == "pillow":
    try:
        Image.open(Path(sys.argv[1]) / "x.tif").load()
    except OSError:
        pass
else:
    try:
        open_images(sys.argv[1])
    except UserError as error:
        print(error)
    print("still here", file=sys.stderr)
"""


def said(folder, reader):
    done = subprocess.run(
        [sys.executable, "-c", NOISY, str(folder), reader], capture_output=True, text=True, check=True
    )
    return done.stdout, done.stderr


def test_what_libtiff_says_of_a_damaged_file_does_not_reach_the_terminal(tmp_path):
    content = bytearray(
        encoded(
            np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8),
            "TIFF",
            compression="tiff_lzw",
        )
    )
    content[60:200] = b"\xff" * 140
    (tmp_path / "x.tif").write_bytes(content)
    assert said(tmp_path, "pillow")[1], "this damage makes libtiff print"
    out, err = said(tmp_path, "diffmem")
    assert err == "still here\n"
    assert out.count("\n") == 1
    assert "x.tif" in out


def test_standard_error_is_back_after_an_error_and_in_every_thread(tmp_path):
    file = tmp_path / "err"
    kept = os.dup(2)
    with file.open("wb") as stream:
        os.dup2(stream.fileno(), 2)
    try:
        try:
            with quiet():
                os.write(2, b"lost\n")
                raise KeyError
        except KeyError:
            os.write(2, b"back\n")

        def work():
            for _ in range(50):
                with quiet(), quiet():
                    os.write(2, b"lost\n")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os.write(2, b"end\n")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert file.read_bytes() == b"back\nend\n"


def test_without_a_standard_error_nothing_is_needed():
    code = "import os; os.close(2)\nfrom diffmem.data.formats.decode import quiet\nwith quiet():\n    print('fine')"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "fine\n"
