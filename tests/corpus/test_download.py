from __future__ import annotations

import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from felga.corpus.download import Archive, fetch_coco
from felga.errors import BadInputError, MissingError


class Server(http.server.BaseHTTPRequestHandler):
    """Ranges, and a connection that breaks off after ``cut`` bytes."""

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


def test_fetched_checked_unpacked_and_not_fetched_again(tmp_path, home):
    seen = []
    for _ in range(2):
        fetch_coco(2017, tmp_path, home=home, archives=archive(), progress=lambda *at: seen.append(at))
    assert (tmp_path / "annotations" / "instances_val2017.json").read_text() == "{}" * 50_000
    assert Server.asked == [0]
    assert seen[-1] == ("a.zip", len(Server.content), len(Server.content))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.zip.done", "annotations"]


def test_a_broken_connection_is_gone_on_with(tmp_path, home):
    Server.cut = 40
    with pytest.raises(MissingError, match="run the same command to go on"):
        fetch_coco(2017, tmp_path, home=home, archives=archive())
    Server.cut = None
    fetch_coco(2017, tmp_path, home=home, archives=archive())
    assert Server.asked == [0, 40]
    assert (tmp_path / "annotations" / "instances_val2017.json").exists()


def test_a_part_that_is_whole(tmp_path, home):
    (tmp_path / "a.zip.part").write_bytes(Server.content)
    fetch_coco(2017, tmp_path, home=home, archives=archive())
    assert (tmp_path / "annotations" / "instances_val2017.json").exists()


def test_another_md5_is_refused_and_removed(tmp_path, home):
    with pytest.raises(BadInputError, match="a.zip has the md5 .*, wanted 000"):
        fetch_coco(2017, tmp_path, home=home, archives=archive("000"))
    assert not list(tmp_path.iterdir())


def test_no_server_and_no_year(tmp_path):
    with pytest.raises(MissingError, match="cannot be fetched"):
        fetch_coco(2017, tmp_path, home="http://127.0.0.1:9", archives=(Archive("x.zip", "", "x"),))
    with pytest.raises(BadInputError, match="no COCO 2015"):
        fetch_coco(2015, tmp_path)
