"""Attempts to get out of a run through every text of a task: a part of the conformance suite.

What a person writes arrives in the program as it was written, and nothing else happens: no command runs (a canary file would
tell), no option, directive, path or line of a document comes of it. Or it is refused, with a reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tessera_hub.proxy.drivers.base import DriverError
from tests.proxy.conftest import LeaseMaker
from tests.proxy.sites import Site

ROOT = "${PWD%%[a-zA-Z]*}"
"""A slash, for shells, where a name may have none."""
COMMAND = f"touch {ROOT}tmp{ROOT}{{mark}}"
TEXTS = (
    "$(COMMAND)",
    "`COMMAND`",
    "'; COMMAND; '",
    '"; COMMAND; "',
    "&& COMMAND || COMMAND & COMMAND | COMMAND > {mark}",
    "\n#SBATCH --wrap='COMMAND'\n#SBATCH -p low\nCOMMAND\n",
    "\r\nCOMMAND\r\n",
    "--wrap=COMMAND",
    "-rf",
    "-c",
    "$(HOME) $$(HOME) ${HOME} $HOME $$ ~ *",
    "Ref::inputfile %j%u%N%% {0} {{owner}} %(name)s",
    '"}]}, {"name": "x", "value": "',
    "a: b\n- c: *d\n--- !!python/object/apply:os.system [COMMAND]\n",
    "../../../../tmp/x",
    "/etc/hostname",
    "file:///etc/hostname",
    "C:\\windows\\..\\x",
    "\u202eü 模型 \u2028\u0085\u200b\ufeff",
    "\x01\x07\x1b]0;title\x07\x1b[2J\x7f\x9b",
    "",
    " ",
    "x" * 60_000,
)
VARIABLES = (
    "BASH_ENV",
    "ENV",
    "IFS",
    "PROMPT_COMMAND",
    "SHELLOPTS",
    "PYTHONINSPECT",
    "PYTHONSTARTUP",
    "SLURM_JOB_ID",
    "SLURM_CONF",
    "SLURM_PROCID",
    "SBATCH_PARTITION",
    "SQUEUE_FORMAT",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ENDPOINT_URL",
    "KUBERNETES_SERVICE_HOST",
    "http_proxy",
    "HOME",
    "TMPDIR",
    "PATH",
)
"""Which a shell, Python or an engine would read, were they set for anything but the program."""
NAMES = ("$(COMMAND)", "'\"; COMMAND; #SBATCH --wrap", "-c `COMMAND` %j%u", "\u202eü 模型 {owner}\u200b", "n" * 240)
"""Where there is one only: name, entry, checkpoint directory, tenant."""
SEER = """
import json, os, pathlib
seen = {
    "variables": {name: value for name, value in os.environ.items() if name.startswith("V") or name in %(names)r},
    "tenant": os.environ["TESSERA_TENANT"],
    "parameters": json.loads(pathlib.Path(os.environ["TESSERA_PARAMETERS"]).read_text()),
    "files": sorted(str(p) for p in pathlib.Path().rglob("*") if p.is_file()),
    "checkpoint": os.environ["TESSERA_CHECKPOINT_DIR"],
    "entry": os.path.basename(__file__),
    "mark": os.path.exists("/tmp/%(mark)s"),
}
pathlib.Path(os.environ["TESSERA_CHECKPOINT_DIR"], "x").write_text("there")
print("SEEN", json.dumps(seen), flush=True)
"""
WRITER = """
import os, pathlib, socket
for name in %(names)r:
    pathlib.Path("../output", name).write_text("x")
for name in (b"line\\nbreak", b"half\\xff", b"back\\\\slash"):
    os.close(os.open(b"../output/" + name, os.O_CREAT | os.O_WRONLY))
os.mkdir("../output/below")
os.symlink("/etc", "../output/below/etc")
os.symlink("/etc/hostname", "../output/stolen")
os.symlink("/etc/hostname", "stolen too")
os.symlink("..", "up")
os.symlink("/etc", os.environ["TESSERA_CHECKPOINT_DIR"] + "/etc")
os.mkfifo("pipe")
socket.socket(socket.AF_UNIX).bind("socket")
"""


def meant(text: str, mark: str) -> str:
    """Return an attempt with its command."""
    return text.replace("COMMAND", COMMAND).replace("{mark}", mark)


def as_name(text: str) -> str:
    """Return what of an attempt may stand in a path."""
    kept = "".join(c for c in text if c.isprintable() or c in "\u202e\u200b\ufeff").replace("/", "_").replace("\\", "_")
    return kept.encode()[:240].decode(errors="ignore").replace("..", "_")


class Escapes:
    """The attempts."""

    @pytest.mark.parametrize("index", range(len(NAMES)))
    async def test_every_text_arrives_as_it_was_written(self, site: Site, make_lease: LeaseMaker, index: int) -> None:
        driver = await site.start()
        mark = f"tessera-escape-{uuid4().hex}"
        name = meant(NAMES[index], mark)
        texts = [meant(text, mark) for text in TEXTS]
        if index:  # the long one once is enough
            texts.pop()
        names = sorted({as_name(text) for text in texts} - {"", " "})
        variables = {f"V{number}": text for number, text in enumerate(texts)} | dict.fromkeys(
            VARIABLES[index :: len(NAMES)], texts[0]
        )
        parameters: dict[str, Any] = {f"p{number}": {text: [text]} for number, text in enumerate(texts)}
        entry = f"{name}.py"
        made, source = make_lease(
            SEER % {"names": VARIABLES, "mark": mark},
            entry=entry,
            files={f"dir {name}/{one}": one.encode() for one in names},
            name=name[:120],
            variables=variables,
            labels={text[:200] or "empty": text[:1000] for text in texts},
            parameters=parameters,
            lifecycle={"checkpoint_directory": f"check/{name}"},
        )
        lease = made.model_copy(update={"tenant": name, "queue": f"{name}/{name}"})
        await site.submit(lease, source)
        run = await site.wait(lease)
        output = (await driver.logs(lease.run_id, "output", 0, 1 << 20)).decode()
        assert (run.phase, run.reason) == ("SUCCEEDED", None), (run.reason, output)
        seen = json.loads(output.partition("SEEN ")[2].partition("\n")[0])
        other = {one: seen["variables"].get(one) for one, text in variables.items() if seen["variables"].get(one) != text}
        assert other == {}, f"{other} in place of {[variables[one] for one in other]}"
        assert (seen["parameters"], seen["tenant"], seen["entry"]) == (parameters, name, entry)
        assert seen["checkpoint"].endswith(f"/check/{name}")
        assert seen["files"] == sorted([entry, *(f"dir {name}/{one}" for one in names)])
        assert not seen["mark"]
        assert not Path("/tmp", mark).exists()

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"environment": "$(COMMAND)"}, "environment.unknown"),
            ({"environment": "../default"}, "environment.unknown"),
            ({"secrets": {"KEY": "../1/$(COMMAND)"}}, "secret.unknown"),
            ({"secrets": {"KEY": "/etc/hostname"}}, "secret.unknown"),
        ],
        ids=["environment", "environment path", "secret", "secret path"],
    )
    async def test_a_name_that_is_looked_up_is_only_looked_up(
        self, site: Site, make_lease: LeaseMaker, fields: dict[str, Any], code: str
    ) -> None:
        await site.start()
        mark = f"tessera-escape-{uuid4().hex}"
        lease, source = make_lease("print('never')", **json.loads(json.dumps(fields).replace("COMMAND", meant("COMMAND", mark))))
        refused = None
        try:
            await site.submit(lease, source)
        except DriverError as error:
            refused = error.code
        if refused is not None:
            assert (refused, await site.run(lease)) == (code, None)
        else:
            run = await site.wait(lease)
            assert (run.phase, run.reason.code if run.reason else "", run.meter) == ("FAILED", code, ())
        assert source.claims == []
        assert not Path("/tmp", mark).exists()

    async def test_names_of_results_come_back_as_they_are_or_are_told_as_left_out(
        self, site: Site, make_lease: LeaseMaker
    ) -> None:
        driver = await site.start()
        mark = f"tessera-escape-{uuid4().hex}"
        names = sorted({as_name(meant(text, mark)) for text in (*TEXTS, *NAMES)} - {"", " "})
        lease, source = make_lease(WRITER % {"names": names})
        await site.submit(lease, source)
        run = await site.wait(lease)
        output = (await driver.logs(lease.run_id, "output", 0, 1 << 16)).decode()
        assert (run.phase, run.reason) == ("SUCCEEDED", None), (run.reason, output)
        results = await driver.results(lease.run_id)
        assert sorted(found.path for found in results.outputs) == names
        cut = [file["path"] for note in results.notes for file in note.detail.get("files", ()) if note.code == "outputs.cut"]
        assert sorted(path[:4] for path in (*results.left_out, *cut)) == ["back", "half", "line"]
        assert results.checkpoint == ()
        assert not Path("/tmp", mark).exists()
