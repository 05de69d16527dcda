"""The magics in a real IPython shell, and in a real kernel with tasks that really run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient
from tests.centre import Centre

from tessera_hub.client.submission import specification
from tessera_lab.magics import _parser, submit_options


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("TESSERA_URL", "TESSERA_TOKEN", "JUPYTERHUB_API_TOKEN", "JUPYTERHUB_API_URL", "JUPYTERHUB_SERVICE_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    shell: Any = InteractiveShell()
    shell.run_line_magic("load_ext", "tessera_lab")
    return shell


def test_without_a_connection_the_person_is_told(shell: Any) -> None:
    with pytest.raises(UsageError, match=r"\([a-z_]+\.[a-z_]+\)$"):
        shell.run_cell_magic("tessera", "--cpu 1", "print(1)")


@pytest.mark.parametrize("line", ["--cores 3", "--param x", "'open", "--param =1", "--kind notebook", "--port high"])
def test_a_mistake_in_the_line_is_a_usage_error(shell: Any, line: str) -> None:
    with pytest.raises(UsageError):
        shell.run_cell_magic("tessera", line, "print(1)")


def test_data_sets_kind_and_port_are_those_of_the_sdk() -> None:
    line = "--dataset birds --dataset faces --kind service --port 9000 --cluster gpu-farm"
    options = submit_options(_parser("%%tessera", takes_file=False).parse_args(line.split()))
    assert options == {
        "datasets": ["birds", "faces"],
        "kind": "service",
        "port": 9000,
        "cluster": "gpu-farm",
    }
    spec = specification("serve.py", options)
    assert (spec.kind, spec.port, spec.datasets, spec.clusters) == ("service", 9000, ["birds", "faces"], ["gpu-farm"])


def test_the_line_magic_needs_a_file(shell: Any) -> None:
    with pytest.raises(UsageError, match="file"):
        shell.run_line_magic("tessera", "--follow")


@pytest.fixture
def in_a_kernel(centre: Centre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs cells in a new kernel, as a person does in a workspace; gives the texts of each cell's outputs."""
    monkeypatch.setenv("TESSERA_URL", centre.service.url)
    monkeypatch.setenv("TESSERA_TOKEN", centre.token)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TESSERA_LANGUAGE", "en")

    def run(*sources: str) -> list[str]:
        # Nothing is loaded by hand: the environment's configuration of IPython does it.
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        notebook = nbformat.v4.new_notebook(cells=cells)
        resources = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, kernel_name="python3", resources=resources, timeout=120, allow_errors=True).execute()
        return [_text(cell.outputs) for cell in notebook.cells]

    return run


def _text(outputs: list[Any]) -> str:
    texts = []
    for output in outputs:
        texts += [output.get("text", ""), *output.get("data", {}).values(), output.get("evalue", "")]
    return "\n".join(text for text in texts if isinstance(text, str))


SMALL = "--cpu 0.1 --memory 256MiB"


def test_a_cell_runs_as_a_job_and_is_followed_to_its_end(in_a_kernel: Any) -> None:
    followed, again, failed = in_a_kernel(
        f"%%tessera {SMALL} --name from-a-cell --follow\nimport time\nfor i in range(3):\n    print('line', i, flush=True)\n"
        "    time.sleep(0.4)",
        "_.phase, _.task.name, ''.join(_.logs())",
        f"%%tessera {SMALL} --follow\nprint('before')\nraise SystemExit(3)",
    )
    assert followed.index("▸ Running") < followed.index("line 0") < followed.index("line 2") < followed.index("▸ Succeeded")
    assert "▸ Cost: CNY" in followed
    assert "<task " in followed
    assert "'from-a-cell'" in again
    assert r"line 0\nline 1\nline 2\n" in again
    assert "before" in failed
    assert "▸ Failed · " in failed


def test_a_file_runs_as_a_job_with_parameters_and_is_shown_live(in_a_kernel: Any, tmp_path: Path) -> None:
    cell = {**nbformat.v4.new_code_cell("epochs = 1"), "metadata": {"tags": ["parameters"]}}
    cells = [nbformat.from_dict(cell), nbformat.v4.new_code_cell("print('epochs are', epochs + 1)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "train.ipynb")
    shown, ended, dry = in_a_kernel(
        "task = %tessera train.ipynb --param epochs=3 --cpu 0.1 --memory 512MiB\ntask",
        "task.wait(90).phase, ''.join(task.logs())",
        "%tessera train.ipynb --dry-run",
    )
    assert "<strong>train.ipynb</strong>" in shown, "the live view, as HTML"
    assert "SUCCEEDED" in ended
    assert "epochs are 4" in ended
    assert "train.ipynb" in dry
    assert "<task" not in dry


def test_a_refusal_of_the_service_is_one_line(in_a_kernel: Any) -> None:
    refused = in_a_kernel(
        "%%tessera --memory 900TiB\nprint(1)",
        f"%%tessera {SMALL} --dataset nowhere\nprint(1)",
        f"%%tessera {SMALL} --kind service --port 9000\nprint(1)",
    )
    for said, code in zip(refused, ("never.too_large", "dataset.unknown", "never.no_services"), strict=True):
        assert said.strip().endswith(f"({code})"), said
        assert "Traceback" not in said
