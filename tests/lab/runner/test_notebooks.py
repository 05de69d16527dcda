"""Notebooks in real kernels: what they leave behind when they succeed and when a cell fails."""

from __future__ import annotations

import json
from typing import Any

import nbformat
import pytest


def test_a_notebook_runs_with_its_parameters_in_its_folder(folder: Any) -> None:
    folder.notebook(
        ("epochs = 1\nname = 'a'  # who", "parameters"),
        "import os\nprint(epochs, name, os.getcwd())",
        "open('made.txt', 'w').write(os.environ['TESSERA_RUN_ID']); epochs * 2",
        parameters={"epochs": 3, "name": 'x"; import os #'},
    )
    assert folder.run() == 0, folder.log
    record = folder.record
    assert (record["state"], record["reason"], record["exit_code"]) == ("succeeded", None, 0)
    assert (record["cells_done"], record["cells_total"], record["lease_token"]) == (4, 4, "lease-1")
    assert record["peak_memory_mib"] > 20
    work = folder.path / "work" / "sub"
    assert f'3 x"; import os # {work}\n' in folder.log
    assert (work / "made.txt").read_text() == folder.run_id
    cells = folder.output.cells
    assert cells[1].metadata.tags == ["injected-parameters"]
    assert cells[3].outputs[0].data["text/plain"] == "6"
    assert folder.output.metadata.tessera.state == "succeeded"


def test_progress_tells_every_cell_and_output_in_order(folder: Any) -> None:
    folder.notebook("print('one')", "x = 2", "x", metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    assert folder.run() == 0, folder.log
    events = folder.events()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0] | {"at": ""} == {
        "seq": 1,
        "at": "",
        "event": "started",
        "kind": "notebook",
        "cells_total": 3,
        "kernel": "python3",
    }
    assert [(e["index"], e["of"], e["state"]) for e in folder.events("cell")] == [
        (index, 3, state) for index in (1, 2, 3) for state in ("running", "done")
    ]
    assert [(e["index"], e["output_type"], e["text"]) for e in folder.events("output")] == [
        (1, "stream", "one\n"),
        (3, "execute_result", "2"),
    ]
    assert events[-1]["event"] == "finished"
    assert events[-1]["state"] == "succeeded"


def test_a_failing_cell_keeps_what_came_before_and_its_error(folder: Any) -> None:
    folder.notebook("print('before')", "raise ValueError('七')", "print('after')")
    assert folder.run() == 1
    assert folder.reason["code"] == "cell.error"
    assert folder.reason["detail"] == {"ename": "ValueError", "evalue": "七", "cell": 2, "cells_total": 3}
    assert (folder.record["state"], folder.record["cells_done"]) == ("failed", 1)
    cells = folder.output.cells
    assert cells[0].outputs[0].text == "before\n"
    assert cells[1].outputs[-1].ename == "ValueError"
    assert cells[2].outputs == []
    assert cells[2].execution_count is None
    assert "after" not in folder.log
    (error,) = folder.events("error")
    assert (error["ename"], error["evalue"], error["cell"]) == ("ValueError", "七", 2)


def test_the_partial_notebook_grows_while_a_cell_runs(folder: Any) -> None:
    folder.notebook("print('first')", "import time\nprint('streamed', flush=True)\ntime.sleep(60)")
    process = folder.start()
    folder.wait_for(lambda: any("streamed" in event["text"] for event in folder.events("output")))
    seen = folder.wait_for(lambda: [c for c in folder.output.cells if c.outputs and "streamed" in c.outputs[0].text], 10)
    assert len(seen) == 1
    assert folder.output.cells[0].outputs[0].text == "first\n"
    folder.stop("cancel", process)
    assert folder.living()


def test_old_outputs_are_not_taken_for_new_ones(folder: Any) -> None:
    book = nbformat.v4.new_notebook()
    stale = nbformat.v4.new_output("stream", name="stdout", text="stale")
    book.cells = [nbformat.v4.new_code_cell("1/0"), nbformat.v4.new_code_cell("print('x')", outputs=[stale], execution_count=7)]
    folder.prepare(content=nbformat.writes(book))
    assert folder.run() == 1
    assert folder.output.cells[1].outputs == []


def test_tags_of_nbclient_are_followed(folder: Any) -> None:
    folder.notebook(("1/0", "raises-exception"), ("1/0", "skip-execution"), "print('end')")
    assert folder.run() == 0, folder.log
    assert folder.record["cells_done"] == folder.record["cells_total"] == 2


def test_exit_with_zero_ends_a_notebook_early_and_well(folder: Any) -> None:
    folder.notebook("import sys\nsys.exit(0)", "print('never')")
    assert folder.run() == 0, folder.log
    assert folder.record["cells_done"] == 0
    assert folder.notes("notebook.exit_early") == [{"cell": 1}]
    assert "never" not in folder.log


def test_exit_with_another_status_is_an_error(folder: Any) -> None:
    folder.notebook("import sys\nsys.exit(3)")
    assert folder.run() == 1
    assert folder.reason["detail"]["ename"] == "SystemExit"


def test_a_process_that_a_cell_leaves_behind_is_ended(folder: Any) -> None:
    folder.notebook("import subprocess\nsubprocess.Popen('(setsid sleep 600 &)', shell=True).wait()")
    assert folder.run() == 0, folder.log
    assert folder.living() == []


def test_a_notebook_of_format_3_is_brought_up_to_date(folder: Any) -> None:
    cells = [
        {"cell_type": "code", "input": ["print(6 * 7)"], "outputs": [], "language": "python", "metadata": {}, "collapsed": False}
    ]
    old = {"metadata": {"name": ""}, "nbformat": 3, "nbformat_minor": 0, "worksheets": [{"cells": cells, "metadata": {}}]}
    folder.prepare(content=json.dumps(old))
    assert folder.run() == 0, folder.log
    assert "42\n" in folder.log


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"cells": [', {"line": 1, "column": 12}),
        (b"\xff\xfe\x00", {"problem": "encoding"}),
        (b"[1, 2]", {"problem": "no nbformat"}),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}', {}),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": 3}', {}),
        (b'{"nbformat": 99, "nbformat_minor": 5, "metadata": {}, "cells": []}', {}),
        (b"[" * 100_000, {}),
        (b"", {"line": 1}),
    ],
)
def test_a_broken_notebook_is_refused_with_the_place(folder: Any, content: bytes, problem: dict[str, Any]) -> None:
    folder.prepare(content=content)
    assert folder.run() == 65, folder.log
    assert folder.reason["code"] == "notebook.invalid"
    assert folder.reason["detail"].items() >= problem.items()
    assert folder.events("cell") == []


def test_a_missing_notebook_is_named(folder: Any) -> None:
    folder.prepare(entry="no/such.ipynb")
    assert folder.run() == 66
    assert (folder.reason["code"], folder.reason["detail"]) == ("notebook.missing", {"entry": "no/such.ipynb"})


def test_a_link_out_of_the_snapshot_is_not_followed(folder: Any) -> None:
    folder.prepare(entry="train.ipynb")
    outside = folder.path / "outside.ipynb"
    outside.write_text(nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])))
    (folder.path / "work" / "train.ipynb").symlink_to(outside)
    assert folder.run() == 66
    assert folder.reason["code"] == "notebook.missing"


def test_an_unknown_kernel_is_refused_with_those_there_are(folder: Any) -> None:
    folder.notebook("1", metadata={"kernelspec": {"name": "my-env", "display_name": "Mine"}})
    assert folder.run() == 69
    assert folder.reason["code"] == "kernel.unknown"
    assert folder.reason["detail"]["kernel"] == "my-env"
    assert "python3" in folder.reason["detail"]["known"]


def test_a_chosen_kernel_takes_the_place_of_the_notebooks_own(folder: Any) -> None:
    folder.notebook("print(1 + 1)", metadata={"kernelspec": {"name": "my-env", "display_name": "Mine"}}, kernel="python3")
    assert folder.run() == 0, folder.log


def test_a_parameter_of_a_wrong_type_is_refused_before_anything_runs(folder: Any) -> None:
    folder.notebook(("epochs = 1", "parameters"), "open('ran', 'w')", parameters={"epochs": "three"})
    assert folder.run() == 65
    assert folder.reason["code"] == "parameter.type"
    assert folder.reason["detail"] == {"name": "epochs", "expected": "int", "value": "'three'"}
    assert not (folder.path / "work" / "sub" / "ran").exists()


def test_a_parameter_the_notebook_does_not_know_is_set_and_noted(folder: Any) -> None:
    folder.notebook(("epochs = 1", "parameters"), "print(epochs, extra)", parameters={"extra": [1, None]})
    assert folder.run() == 0, folder.log
    assert "1 [1, None]" in folder.log
    assert folder.notes("parameter.unknown") == [{"name": "extra"}]


def test_parameters_without_a_tagged_cell_go_to_the_top(folder: Any) -> None:
    folder.notebook("print(epochs)", parameters={"epochs": float("inf")})
    assert folder.run() == 0, folder.log
    assert "inf\n" in folder.log
    assert folder.notes("parameter.no_cell") == [{"names": ["epochs"]}]


def test_a_killed_kernel_is_told_with_its_signal(folder: Any) -> None:
    folder.notebook("print('ok')", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "print('never')")
    assert folder.run() == 71, folder.log
    assert folder.reason["code"] == "kernel.died"
    assert folder.reason["detail"] == {"signal": "SIGKILL", "status": -9, "cell": 2, "cells_total": 3}
    assert folder.output.cells[0].outputs[0].text == "ok\n"


def test_a_crashed_kernel_leaves_its_last_words_in_the_log(folder: Any) -> None:
    folder.notebook("import ctypes, faulthandler\nctypes.string_at(0)")
    assert folder.run() == 71, folder.log
    assert folder.reason["detail"]["signal"] == "SIGSEGV"


def test_a_kernel_that_cannot_start_is_told(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = folder.path / "share" / "kernels" / "broken"
    kernel.mkdir(parents=True)
    argv = ["python", "-c", "import sys; sys.exit('no such module: torch')", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Broken", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder.path / "share"))
    folder.notebook("1", kernel="broken")
    assert folder.run() == 69, folder.log
    assert folder.reason["code"] == "kernel.start_failed"
    assert "no such module: torch" in folder.log


def test_parameters_for_a_kernel_in_an_unknown_language_are_refused(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = folder.path / "share" / "kernels" / "other"
    kernel.mkdir(parents=True)
    argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Other", "language": "cobol"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder.path / "share"))
    folder.notebook("1", kernel="other", parameters={"x": 1})
    assert folder.run() == 65
    assert (folder.reason["code"], folder.reason["detail"]["language"]) == ("parameter.language", "cobol")


def test_a_kernel_in_another_language_listens_on_tcp(folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = folder.path / "share" / "kernels" / "other"
    kernel.mkdir(parents=True)
    argv = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "Other", "language": "cobol"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder.path / "share"))
    folder.notebook(
        "import json\nfrom ipykernel.connect import get_connection_info\nprint(json.loads(get_connection_info())['transport'])",
        kernel="other",
    )
    assert folder.run() == 0, folder.log
    assert "tcp\n" in folder.log
