from pathlib import Path

import pytest

from diffmem.runs.store.filesystems import file_system, is_local

MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:40 / /home rw,relatime shared:1 master:2 - nfs4 server:/home rw,vers=4.2
41 40 0:41 / /home/fast rw - xfs /dev/nvme0n1 rw
42 27 0:42 / /with\\040space rw - lustre ib0:/scratch rw
43 27 0:43 / /disks rw - ext4 /dev/vdb rw
44 27 0:44 / /disks rw - gpfs gpfs0 rw
45 27 0:45 / /odd rw - fuse.sshfs host:/ rw
46 27 0:46 / /homes rw - tmpfs tmpfs rw
a line that is none
"""


@pytest.fixture
def mounts(tmp_path):
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTS)
    return path


@pytest.mark.parametrize(
    ("folder", "kind", "local"),
    [
        ("/srv/store", "ext4", True),
        ("/home/me/store", "nfs4", False),
        ("/home/fast/store", "xfs", True),
        ("/with space/store", "lustre", False),
        ("/disks/store", "gpfs", False),  # the later mount hides the earlier one
        ("/odd", "fuse.sshfs", False),
        ("/homes/store", "tmpfs", True),  # not below /home
    ],
)
def test_the_mount_nearest_to_a_folder_decides(mounts, folder, kind, local):
    assert file_system(Path(folder), mounts) == kind
    assert is_local(Path(folder), mounts) is local


def test_links_are_followed(mounts, tmp_path):
    (tmp_path / "link").symlink_to("/home/me")
    assert file_system(tmp_path / "link" / "store", mounts) == "nfs4"


def test_what_the_system_does_not_tell_counts_as_shared(tmp_path):
    assert file_system(tmp_path, tmp_path / "missing") is None
    assert not is_local(tmp_path, tmp_path / "missing")
