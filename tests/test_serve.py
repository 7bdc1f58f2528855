"""The live page: on this machine only, read only, and as new as the record."""

import http.client
import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from gradwatch.errors import ReportError
from gradwatch.serve import PageServer, is_local
from tests.recorded_runs import FakeRun


@pytest.fixture
def run(tmp_path):
    """A recorded run that goes on."""
    run = FakeRun(tmp_path / "runs")
    run.probe(0)
    return run


def serving(run, **options):
    """Return a server in a thread of its own."""
    server = PageServer(
        run.recorder.folder, options.pop("host", "127.0.0.1"), 0, **options
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def server(run):
    """A server on this machine."""
    server = serving(run)
    yield server
    server.shutdown()
    server.server_close()


def get(server, path="", **headers):
    """Return status, headers and body of an answer."""
    address, _, query = server.url.partition("?")
    full = address + path + (f"?{query}" if query else "")
    request = urllib.request.Request(full, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def test_the_page_asks_for_its_data(server):
    """The page is live, and nothing may keep or embed it."""
    status, headers, body = get(server)
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert '"live":true' in body
    assert "connect-src 'self'" in body


def test_data_are_as_new_as_the_record(run, server):
    """A probe that arrives is in the next answer; without one there is no answer."""
    _, headers, body = get(server, "data")
    assert json.loads(body)["series"]["steps"] == [0]
    assert json.loads(body)["finished"] is False
    tag = headers["ETag"]
    assert get(server, "data", **{"If-None-Match": tag})[0] == 304
    run.probe(10)
    status, headers, body = get(server, "data", **{"If-None-Match": tag})
    assert status == 200
    assert headers["ETag"] != tag
    assert json.loads(body)["series"]["steps"] == [0, 10]


def test_another_site_s_name_for_this_machine_is_refused(server):
    """A page that rebinds its name to 127.0.0.1 sends its own name as `Host`."""
    assert get(server, "data", Host="evil.example")[0] == 403
    assert get(server, "data", Host="localhost.evil.example:80")[0] == 403
    assert get(server, "data", Host="LocalHost:80")[0] == 200


@pytest.mark.parametrize("path", ["etc/passwd", "../run.jsonl", "%2e%2e/x", "data/x"])
def test_there_is_nothing_but_the_page(server, path):
    """No file is served."""
    assert get(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(server, method):
    """Only GET is answered."""
    request = urllib.request.Request(server.url, method=method, data=b"x")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    with refused.value as answer:
        assert answer.code == 501


def test_others_need_the_token(run):
    """An address that others reach has a token, drawn if none is given."""
    server = serving(run, host="0.0.0.0")
    try:
        assert len(server.token) >= 16
        assert f"token={server.token}" in server.url
        local = server.url.replace("0.0.0.0", "127.0.0.1")
        with urllib.request.urlopen(local, timeout=10) as answer:
            assert answer.status == 200
        for wrong in ("", "?token=", "?token=guess"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(local.partition("?")[0] + wrong, timeout=10)
            with refused.value as answer:
                assert answer.code == 403
    finally:
        server.shutdown()
        server.server_close()


def test_a_token_may_have_any_letter(run):
    """And a wrong one with such letters is refused, not met with silence."""
    server = serving(run, token="d\u00e9j\u00e0")
    try:
        for token, status in (("d%C3%A9j%C3%A0", 200), ("%C3%A9", 403), ("guess", 403)):
            wire = http.client.HTTPConnection(*server.server_address, timeout=10)
            wire.request("GET", f"/data?token={token}")
            assert wire.getresponse().status == status
            wire.close()
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_that_goes_away_while_it_is_looked_at(run, server, monkeypatch):
    """The state of a record is that of the files that are still there."""
    gone = run.recorder.folder / "gone.jsonl"
    gone.write_text("")
    stat = Path.stat

    def vanishing(self, **options):
        found = stat(self, **options)
        if self == gone:
            gone.unlink()
        return found

    monkeypatch.setattr(Path, "stat", vanishing)
    assert get(server, "data")[0] == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("box", False),
    ],
)
def test_what_this_machine_alone_reaches(host, local):
    """Loopback addresses and `localhost`."""
    assert is_local(host) is local


def test_a_folder_that_is_no_run_is_refused_at_once(tmp_path):
    """Before anybody opens a page."""
    with pytest.raises(ReportError, match="holds no run"):
        PageServer(tmp_path, "127.0.0.1", 0)


def test_a_port_in_use_is_named(run, server):
    """And what to do about it."""
    port = server.server_address[1]
    with pytest.raises(ReportError, match=rf"`port` \(={port}\).*0 for a free one"):
        PageServer(run.recorder.folder, "127.0.0.1", port)


def test_the_other_loopback_address_serves_too(run):
    """IPv6, with its brackets in the address."""
    try:
        server = serving(run, host="::1")
    except ReportError as error:
        pytest.skip(f"no IPv6 here: {error}")
    try:
        assert server.url.startswith("http://[::1]:")
        assert server.token is None
        assert get(server)[0] == 200
    finally:
        server.shutdown()
        server.server_close()
