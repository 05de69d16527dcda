"""How a Slurm centre is set up: one TOML file, read once and checked completely (docs/how-to/connect-a-slurm-centre.md)."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from tessera_hub.proxy.drivers.datasets import FolderDataset
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.schemas.bounds import MOST_DATASETS, DatasetName
from tessera_hub.schemas.resources import Strict

PlainWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+@/=-]{1,200}$")]
"""A word that Slurm's commands take as a value; never begins a new option, since it always follows ``--name=``."""
AccountName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_.-]{0,31}$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[^\x00-\x1f]*$", max_length=1000)]


class EnvironmentSettings(Strict):
    """One environment; exactly one of ``python``, ``venv`` and ``image`` says how it exists here."""

    python: str | None = None
    """Interpreter: an absolute path, or with ``image`` its name inside the image (``python3``)."""
    venv: AbsolutePath | None = None
    """Directory of a virtual environment."""
    modules: list[PlainWord] = Field(default_factory=list)
    """Environment modules to load first."""
    image: AbsolutePath | None = None
    """Apptainer image, a file or sandbox directory."""
    binds: list[AbsolutePath] = Field(default_factory=list)
    """Directories to be seen inside the image, besides the run's own."""
    kernels: list[str] | None = None
    """Names of its kernels; None: asked of the interpreter where the Proxy can run it, else ``python3``."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.image is not None:
            if self.venv is not None:
                raise ValueError("give either image or venv")
        elif (self.venv is None) == (self.python is None):
            raise ValueError("give python, venv or image")
        elif self.python is not None and not self.python.startswith("/"):
            raise ValueError("python must be an absolute path")
        if self.binds and self.image is None:
            raise ValueError("binds goes with image")
        return self

    @property
    def interpreter(self) -> str:
        """The interpreter on a node, or inside the image."""
        if self.venv is not None:
            return f"{self.venv}/bin/python"
        return self.python or "python3"

    @property
    def kind(self) -> str:
        """How it exists here, as the inventory says it."""
        if self.image is not None:
            return "apptainer"
        if self.venv is not None or self.modules:
            return "module + venv"
        return "local path"


class PartitionSettings(Strict):
    """A partition that runs may use."""

    name: PlainWord
    preemptible: PlainWord | None = None
    """Partition for preemptible tasks on the same nodes; None: this one."""
    account: PlainWord | None = None
    qos: PlainWord | None = None
    preemptible_qos: PlainWord | None = None
    reservation: PlainWord | None = None
    constraint: PlainWord | None = None


class SshSettings(Strict):
    """A login node that is reached through SSH."""

    host: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]*$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: AccountName
    """Account of the Proxy's own commands."""
    key: AbsolutePath | None = None
    """Its private key; None: what ssh finds by itself."""
    keys: AbsolutePath | None = None
    """Directory with one private key per person's account, named after it; None: people's commands go through sudo."""
    known_hosts: AbsolutePath | None = None
    alive_seconds: Annotated[int, Field(ge=1)] = 10
    """A connection on which nothing came for three times as long is given up and opened again."""


class SlurmSettings(Strict):
    """Everything about one centre."""

    directory: AbsolutePath | None = None
    """Folder of the runs on the file system that all nodes share; with ``ssh`` its path at the centre."""
    environments: dict[str, EnvironmentSettings]
    partitions: list[PartitionSettings] = Field(default_factory=list)
    """None named: all that are up, in Slurm's order. A node counts in the first that has it."""
    accounts: dict[str, AccountName] = Field(default_factory=dict)
    """Person → Unix account."""
    same_names: bool = False
    """A person without an entry in ``accounts`` has the account of the same name."""
    shared_account: bool = False
    """All runs execute under the Proxy's own account: people are not kept apart."""
    minimum_uid: Annotated[int, Field(ge=1)] = 1000
    """No run under an account below this."""
    sudo: bool = False
    """The Proxy is not root and becomes people by ``sudo -n -u``."""
    cards: dict[str, str] = Field(default_factory=dict)
    """Type of a GRES ``gpu`` → card class; untyped cards have type ``gpu``."""
    suspend: bool = False
    """The Proxy may use ``scontrol suspend``, which needs an operator's rights in Slurm."""
    ssh: SshSettings | None = None
    python: str = "python3"
    """Interpreter at the centre, 3.11 or newer, that unpacks and packs runs (``ssh``, ``sudo``)."""
    poll_seconds: Annotated[float, Field(gt=0)] = 5.0
    command_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Most that one command of Slurm may take."""
    accounting_seconds: Annotated[float, Field(ge=0)] = 600.0
    """How long the end of a job that Slurm has forgotten waits for a ``slurmdbd`` that does not answer."""
    default_minutes: Annotated[int, Field(ge=1)] | None = None
    """Time limit of a job whose task names none; None: the partition's default."""
    slurm_conf: AbsolutePath | None = None
    """Configuration that Slurm's commands use; None: the machine's."""
    path: str = "/usr/local/bin:/usr/bin:/bin"
    """Where Slurm's commands are looked for."""
    datasets: dict[DatasetName, FolderDataset] = Field(default_factory=dict, max_length=MOST_DATASETS)
    """Folders of the centre's file system that runs may read."""
    secrets: AbsolutePath | None = None
    """Folder with ``<tenant id>/<reference>``, each file the value of one secret."""
    variables: dict[str, str] = Field(default_factory=dict)
    """Given to every run on top."""

    @property
    def carried(self) -> bool:
        """Whether files are brought to the centre and back, rather than shared with it."""
        return self.ssh is not None or self.sudo

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shared_account and (self.accounts or self.same_names or self.sudo):
            raise ValueError("shared_account excludes accounts, same_names and sudo")
        if not self.shared_account and not (self.accounts or self.same_names):
            raise ValueError("say whose account a run has: accounts, same_names or shared_account = true")
        if self.carried and self.directory is None:
            raise ValueError("ssh and sudo need directory, a folder at the centre")
        if self.ssh is not None and not self.shared_account and self.ssh.keys is None and not self.sudo:
            raise ValueError("ssh needs ssh.keys or sudo = true to become people, or shared_account = true")
        return self


def read_settings(path: Path) -> SlurmSettings:
    """Return what is in a file of settings.

    Raises:
        ProxyError: ``proxy.bad_option``; the message names file, key and problem.
    """
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ProxyError("proxy.bad_option", f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProxyError("proxy.bad_option", f"{path} is not TOML: {error}") from error
    document.setdefault("environments", {"default": {"python": sys.executable}})
    try:
        return SlurmSettings.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProxyError("proxy.bad_option", f"{path}: {where + ': ' if where else ''}{first['msg']}") from error
