"""Import of an app: what it does to its process, and folders that can't be used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from opsqueue.exceptions import HandlerError
from opsqueue.handlers.app import Opsqueue
from opsqueue_worker.app_import import import_app, import_app_unchanged

Import = Callable[[str], Opsqueue]


@pytest.mark.parametrize("import_it", [import_app, import_app_unchanged])
def test_a_folder_that_was_deleted_is_named_as_the_reason(
    import_it: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(HandlerError, match=r"current folder.*No such file or directory"):
        import_it("tasks:app")


def test_the_folder_need_not_be_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules are found in it all the same; root may read any, so here its opening is refused."""
    (tmp_path / "unlisted.py").write_text(
        "import os\nfrom opsqueue import Opsqueue\napp = Opsqueue()\n"
        "app.operation_handler('a')(abs)\nos.chdir('/')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    opened = os.open

    def refuse(path: str, *rest: int) -> int:
        if path == ".":
            raise PermissionError
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", refuse)

    app = import_app_unchanged("unlisted:app")

    assert (list(app.handlers), Path.cwd()) == (["a"], tmp_path)


@pytest.mark.parametrize("import_it", [import_app, import_app_unchanged])
def test_descriptors_that_the_app_closes_or_replaces_are_put_back(
    import_it: Import,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What handlers and their programs print goes where the worker prints."""
    (tmp_path / "redirected.py").write_text(
        "import os\nfrom opsqueue import Opsqueue\napp = Opsqueue()\n"
        "app.operation_handler('a')(abs)\n"
        "os.close(1)\nos.dup2(os.open('file', os.O_CREAT | os.O_WRONLY), 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "redirected", raising=False)

    import_it("redirected:app")
    os.write(1, b"to stdout")
    os.write(2, b"to stderr")

    assert capfd.readouterr() == ("to stdout", "to stderr")
