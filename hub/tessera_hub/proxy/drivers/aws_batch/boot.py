"""What a container runs first: a constant program, which fetches the courier by a signed address and becomes it.

The run is claimed under the job's id, which is also what is metered. The program is given to ``python -I -c``; nothing of a
person's own text is in the command or its variables.
"""

from __future__ import annotations

from typing import Final

VARIABLE: Final = "TESSERA_COURIER"
"""Of the container: the signed address of what the courier is told."""
NOTHING_BEGUN: Final = 79
"""Exit status when the courier could not be fetched: no claim was made, so the run may be placed anew."""
BOOT: Final = f"""\
import hashlib, json, os, pathlib, signal, sys, tempfile, time, urllib.request
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
def fetch(url):
    for pause in (1, 2, 4, 8, 0):
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return answer.read()
        except OSError as error:
            sys.stderr.write("[tessera] cannot fetch the courier: %s\\n" % getattr(error, "reason", error))
            time.sleep(pause)
    sys.exit({NOTHING_BEGUN})
text = fetch(os.environ["{VARIABLE}"])
root = pathlib.Path(tempfile.mkdtemp(prefix="tessera-")).resolve()
root.chmod(0o711)
settings = root / "courier.json"
settings.touch(0o600)
settings.write_bytes(text)
(root / "code").mkdir(0o755)
for name, kept in json.loads(text)["code"].items():
    data = fetch(kept["url"])
    if hashlib.sha256(data).hexdigest() != kept["sha256"]:
        sys.stderr.write("[tessera] %s is not what was announced\\n" % name)
        sys.exit({NOTHING_BEGUN})
    file = root / "code" / name
    file.write_bytes(data)
    file.chmod(0o644)
who = os.environ["AWS_BATCH_JOB_ID"]
code = str(root / "code")
os.execv(sys.executable, [sys.executable, "-I", code + "/courier.pyz", "single", "--root", str(root),
    "--settings", str(settings), "--claimant", who, "--runner", code + "/runner.pyz"])
"""
