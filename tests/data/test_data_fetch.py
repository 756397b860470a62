import hashlib
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from diffmem.data import DOWNLOADS, Download, fetch
from diffmem.errors import DiffmemError, UserError

CONTENT = bytes(range(256)) * 4096  # a mebibyte


class Server(ThreadingHTTPServer):
    """A server of one file, which can cut connections short and does, or does not, know ranges."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cut = []  # for each connection to come, after how many bytes it is cut
        self.ranges = True
        self.status = None
        self.content = CONTENT
        self.asked = []

    def handle_error(self, request, client_address):
        """Say nothing: clients of these tests may hang up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *words):
        pass

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.status:
            self.send_error(server.status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header(
                "Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}"
            )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cut.pop(0)] if server.cut else body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def download(server, content=CONTENT):
    url = f"http://127.0.0.1:{server.server_address[1]}/files/data.tar.gz"
    return Download(url, hashlib.md5(content).hexdigest(), len(content))


def test_the_archive_of_cifar10_is_the_official_one():
    cifar = DOWNLOADS["cifar10"]
    assert cifar.url == "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    assert (cifar.md5, cifar.size) == ("c58f30108f718f92721af3b95e74349a", 170_498_071)
    assert cifar.file == "cifar-10-python.tar.gz"


def test_a_file_is_downloaded_into_a_new_folder_with_progress(server, tmp_path):
    seen = []
    out = tmp_path / "new" / "data.tar.gz"
    assert fetch(download(server), out, lambda done, total, note="": seen.append((done, total))) is True
    assert out.read_bytes() == CONTENT
    assert list(out.parent.iterdir()) == [out]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_a_whole_file_is_left_alone_and_nothing_is_asked(server, tmp_path):
    out = tmp_path / "data.tar.gz"
    out.write_bytes(CONTENT)
    before = out.stat().st_mtime_ns
    assert fetch(download(server), out) is False
    assert out.stat().st_mtime_ns == before
    assert server.asked == []


@pytest.mark.parametrize("content", [b"something else", CONTENT[:-1] + b"x"])
def test_another_file_of_that_name_is_neither_replaced_nor_taken_for_it(server, tmp_path, content):
    out = tmp_path / "data.tar.gz"
    out.write_bytes(content)
    with pytest.raises(UserError, match="remove it"):
        fetch(download(server), out)
    assert out.read_bytes() == content


def test_a_cut_connection_is_resumed_where_it_stopped(server, tmp_path):
    server.cut = [1000, 50_000]
    out = tmp_path / "data.tar.gz"
    fetch(download(server), out)
    assert out.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=51000-"]


def test_a_later_call_goes_on_from_what_an_earlier_one_kept(server, tmp_path):
    server.cut = [300_000]
    out = tmp_path / "data.tar.gz"
    with pytest.raises(DiffmemError, match=r"300,000 bytes are kept: run it again"):
        fetch(download(server), out, attempts=1)
    assert not out.exists()
    fetch(download(server), out)
    assert out.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_a_server_that_knows_no_ranges_sends_the_whole_file_again(server, tmp_path):
    server.ranges = False
    out = tmp_path / "data.tar.gz"
    (tmp_path / "data.tar.gz.part").write_bytes(b"?" * 1000)
    fetch(download(server), out)
    assert out.read_bytes() == CONTENT


def test_a_server_that_always_cuts_is_given_up(server, tmp_path):
    server.cut = [0] * 10
    with pytest.raises(DiffmemError, match="the connection ended after 0 of 1,048,576 bytes"):
        fetch(download(server), tmp_path / "data.tar.gz")
    assert len(server.asked) == 1


def test_a_wrong_checksum_is_told_and_leaves_nothing(server, tmp_path):
    out = tmp_path / "data.tar.gz"
    with pytest.raises(DiffmemError, match=r"checksum is wrong.*by hand.*MD5 [0-9a-f]{32}"):
        fetch(download(server, CONTENT[:-1] + b"x"), out)
    assert list(tmp_path.iterdir()) == []


def test_damaged_kept_bytes_do_not_survive_their_checksum(server, tmp_path):
    out = tmp_path / "data.tar.gz"
    (tmp_path / "data.tar.gz.part").write_bytes(b"?" * 1000)
    with pytest.raises(DiffmemError, match="checksum is wrong"):
        fetch(download(server), out)
    fetch(download(server), out)
    assert out.read_bytes() == CONTENT


def test_kept_bytes_that_the_server_does_not_know_are_dropped_for_a_fresh_start(server, tmp_path):
    server.status = 416
    (tmp_path / "data.tar.gz.part").write_bytes(b"?" * 1000)
    with pytest.raises(DiffmemError, match="416"):
        fetch(download(server), tmp_path / "data.tar.gz")
    assert server.asked == ["bytes=1000-", None]


@pytest.mark.parametrize("content", [CONTENT + b"more", CONTENT[:1000]])
def test_a_file_of_another_size_is_refused(server, tmp_path, content):
    server.content = content
    with pytest.raises(DiffmemError, match="bytes"):
        fetch(download(server), tmp_path / "data.tar.gz")
    assert not (tmp_path / "data.tar.gz").exists()


def test_kept_bytes_beyond_the_file_are_dropped(server, tmp_path):
    (tmp_path / "data.tar.gz.part").write_bytes(CONTENT + b"more")
    fetch(download(server), tmp_path / "data.tar.gz")
    assert (tmp_path / "data.tar.gz").read_bytes() == CONTENT


def test_a_second_download_of_a_file_at_the_same_time_is_refused_and_the_first_is_whole(server, tmp_path):
    out, refused = tmp_path / "data.tar.gz", []
    (tmp_path / "data.tar.gz.part").write_bytes(CONTENT[:1000])

    def meanwhile(done, total, note=""):
        if not refused:
            refused.append(True)
            with pytest.raises(UserError, match="in use by process"):
                fetch(download(server), out)

    assert fetch(download(server), out, meanwhile) is True
    assert out.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [out]


def test_an_answer_that_is_an_error_is_told(server, tmp_path):
    server.status = 403
    with pytest.raises(DiffmemError, match=r"the server answers 403 Forbidden\. Or download it by hand"):
        fetch(download(server), tmp_path / "data.tar.gz")


def test_without_a_network_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = tmp_path / "new" / "data.tar.gz"
    with pytest.raises(DiffmemError) as failure:
        fetch(Download(f"http://127.0.0.1:{port}/data.tar.gz", "0" * 32, 7), out)
    told = str(failure.value)
    assert not isinstance(failure.value, UserError)
    assert "\n" not in told
    for words in (
        f"http://127.0.0.1:{port}/data.tar.gz",
        "refused",
        "by hand",
        str(out),
        "7 bytes",
        "0" * 32,
    ):
        assert words in told
    assert not out.parent.exists()


def test_a_folder_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"file/\S+ is no folder"):
        fetch(download(server), tmp_path / "file" / "data.tar.gz")
