from __future__ import annotations

import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from felga.corpus.download import Archive, fetch_coco
from felga.errors import BadInputError, MissingError, StorageError


class Server(http.server.BaseHTTPRequestHandler):
    """Serves ranges; the connection breaks after ``cut`` bytes."""

    content, cut, asked = b"", None, []

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.asked.append(start)
        body = self.content[start:]
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.cut is None else body[: self.cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def home():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("annotations/instances_val2017.json", "{}" * 50_000)
    Server.content, Server.cut, Server.asked = data.getvalue(), None, []
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def archive(md5=None):
    md5 = md5 or hashlib.md5(Server.content).hexdigest()
    return (Archive("annotations/a.zip", md5, "annotations/instances_val2017.json"),)


def test_an_archive_is_downloaded_checked_and_unpacked_once(tmp_path, home):
    seen = []
    for _ in range(2):
        fetch_coco(2017, tmp_path, home=home, archives=archive(), progress=lambda *at: seen.append(at))
    assert (tmp_path / "annotations" / "instances_val2017.json").read_text() == "{}" * 50_000
    assert Server.asked == [0]
    assert seen[-1] == ("a.zip", len(Server.content), len(Server.content))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.zip.done", "annotations"]


def test_a_broken_download_is_resumed(tmp_path, home):
    Server.cut = 40
    with pytest.raises(MissingError, match="run the same command to resume"):
        fetch_coco(2017, tmp_path, home=home, archives=archive())
    Server.cut = None
    fetch_coco(2017, tmp_path, home=home, archives=archive())
    assert Server.asked == [0, 40]
    assert (tmp_path / "annotations" / "instances_val2017.json").exists()


def test_a_complete_part_is_not_downloaded_again(tmp_path, home):
    (tmp_path / "a.zip.part").write_bytes(Server.content)
    fetch_coco(2017, tmp_path, home=home, archives=archive())
    assert (tmp_path / "annotations" / "instances_val2017.json").exists()


def test_an_archive_with_the_wrong_md5_is_removed(tmp_path, home):
    with pytest.raises(BadInputError, match="a.zip has the md5 .*, expected 000"):
        fetch_coco(2017, tmp_path, home=home, archives=archive("000"))
    assert not list(tmp_path.iterdir())


def test_an_unreachable_server_a_bad_mirror_and_an_unknown_year(tmp_path):
    with pytest.raises(MissingError, match="cannot be downloaded"):
        fetch_coco(2017, tmp_path, home="http://127.0.0.1:9", archives=(Archive("x.zip", "", "x"),))
    with pytest.raises(BadInputError, match="'no-url/x.zip' is not a URL"):
        fetch_coco(2017, tmp_path, home="no-url", archives=(Archive("x.zip", "", "x"),))
    with pytest.raises(BadInputError, match="no COCO 2015"):
        fetch_coco(2015, tmp_path)


def test_a_full_disk_is_one_sentence(tmp_path, home):
    """/dev/full accepts no byte."""
    (tmp_path / "a.zip.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="cannot be written: the disk is full"):
        fetch_coco(2017, tmp_path, home=home, archives=archive())
