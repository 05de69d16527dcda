"""What a person picked for a workspace: one frozen dataclass, read from the form, from REST or from a deep link.

All three give text values under the same names (a deep link's begin with ``opt-``); the rules are here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from tessera_hub.i18n import gettext as _
from tessera_hub.schemas.bounds import MOST_READ, DatasetName
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode, CardRequest, Resources
from tessera_hub.schemas.tasks import Lifecycle, Role, TaskKind, TaskSpec
from tessera_hub.schemas.workspaces import DEFAULT_NAME

COMPUTE: Final = ("cpu", "share", "mig", "whole")
SHARE_STEP: Final = 5
"""Shares come in steps of five hundredths of a card."""
LINK_PREFIX: Final = "opt-"
LONGEST_NAME: Final = 120
_DATASETS: Final[TypeAdapter[tuple[str, ...]]] = TypeAdapter(Annotated[tuple[DatasetName, ...], Field(max_length=MOST_READ)])


class OptionErrors(ValueError):
    """What is wrong, field by field, in the person's language."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in errors.items()))
        self.errors = dict(errors)


@dataclass(frozen=True, slots=True)
class WorkspaceOptions:
    """A valid choice. Cards in centi-cards, processors in millicores, memory in MiB, time in seconds."""

    environment: str = "default"
    compute: str = "cpu"
    card_class: str | None = None
    share_centi_cards: int = 25
    """Of the share, or of the partition."""
    card_memory_mib: int | None = None
    """Memory of the share, None: in proportion; or of the partition."""
    card_count: int = 1
    cpu_millicores: int = 1000
    memory_mib: int = 2048
    max_run_seconds: int | None = 8 * 3600
    tenant: str | None = None
    queue: str | None = None
    server_name: str = ""
    datasets: tuple[str, ...] = ()

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> WorkspaceOptions:
        """Read form fields, REST options or a deep link; missing fields keep their defaults.

        Raises:
            OptionErrors: every field that is wrong.
        """
        given = {k.removeprefix(LINK_PREFIX): _text(v) for k, v in values.items()}
        reader = _Reader(given)
        named = values.get("datasets", values.get(f"{LINK_PREFIX}datasets"))
        compute = reader.choice("compute", COMPUTE, cls.__dataclass_fields__["compute"].default)
        share = reader.whole("share", 25, 1, 100)
        if compute == "share" and share % SHARE_STEP:
            reader.errors["share"] = _("A share is a multiple of {step} %.", step=SHARE_STEP)
        card_class = reader.name("card_class") if compute in ("share", "whole") else None
        card_memory = reader.gibibytes("card_memory", None, Decimal("0.25"), Decimal(1024)) if compute == "share" else None
        if compute == "mig" and (partition := reader.partition("partition")) is not None:
            card_class, share, card_memory = partition
        hours = reader.decimal("hours", Decimal(8), Decimal("0.1"), Decimal(720), empty=None)
        options = cls(
            environment=reader.name("environment") or "default",
            compute=compute,
            card_class=card_class,
            share_centi_cards=share,
            card_memory_mib=card_memory,
            card_count=reader.whole("cards", 1, 1, 64),
            cpu_millicores=int((reader.decimal("cpu", Decimal(1), Decimal("0.1"), Decimal(1024)) or Decimal(1)) * 1000),
            memory_mib=reader.gibibytes("memory", Decimal(2), Decimal("0.25"), Decimal(16384)) or 2048,
            max_run_seconds=int(hours * 3600) if hours is not None else None,
            tenant=reader.name("tenant"),
            queue=reader.name("queue"),
            server_name=reader.server_name("server"),
            datasets=reader.datasets("datasets", named),
        )
        if reader.errors:
            raise OptionErrors(reader.errors)
        return options

    def cards(self) -> CardRequest | None:
        """Return the request for cards, None for processors only."""
        if self.compute in ("share", "mig"):
            mode = CardMode.VCUDA if self.compute == "share" else CardMode.MIG
            return CardRequest(
                model=self.card_class, mode=mode, centi_cards=self.share_centi_cards, memory_mib=self.card_memory_mib
            )
        if self.compute == "whole":
            return CardRequest(
                model=self.card_class, centi_cards=self.card_count * CENTI_CARDS_PER_CARD, max_cards=self.card_count
            )
        return None

    def specification(self) -> TaskSpec:
        """Return the task to reserve."""
        resources = Resources(cpu_millicores=self.cpu_millicores, memory_mib=self.memory_mib, cards=self.cards())
        return TaskSpec(
            name=self.server_name or DEFAULT_NAME,
            kind=TaskKind.WORKSPACE,
            tenant=self.tenant,
            queue=self.queue,
            environment=self.environment,
            datasets=list(self.datasets),
            roles=[Role(resources=resources)],
            lifecycle=Lifecycle(max_run_seconds=self.max_run_seconds),
        )


def link_of(spec: TaskSpec, server: str = "") -> dict[str, str]:
    """Return the deep link's fields that ask for *spec* again."""
    role = spec.roles[0].resources
    fields = {
        "environment": spec.environment,
        "compute": "cpu",
        "cpu": _number(role.cpu_millicores, 1000),
        "memory": _number(role.memory_mib, 1024),
        "hours": _number(spec.lifecycle.max_run_seconds, 3600) if spec.lifecycle.max_run_seconds else "",
        "tenant": spec.tenant or "",
        "queue": spec.queue or "",
        "server": server,
    }
    if spec.datasets:
        fields["datasets"] = ",".join(spec.datasets)
    if cards := role.cards:
        fields["card_class"] = cards.model or ""
        if cards.mode is CardMode.WHOLE:
            fields |= {"compute": "whole", "cards": str(cards.centi_cards // CENTI_CARDS_PER_CARD)}
        elif cards.mode is CardMode.MIG:
            partition = partition_value(cards.model or "", cards.centi_cards, cards.memory_mib or 0)
            fields |= {"compute": "mig", "card_class": "", "partition": partition}
        else:
            memory = _number(cards.memory_mib, 1024) if cards.memory_mib else ""
            fields |= {"compute": "share", "share": str(cards.centi_cards), "card_memory": memory}
    return {f"{LINK_PREFIX}{name}": value for name, value in fields.items()}


def partition_value(card_class: str, centi_cards: int, memory_mib: int) -> str:
    """Return the value of the field ``partition``: class, centi-cards and MiB."""
    return f"{card_class}:{centi_cards}:{memory_mib}"


def _number(amount: int, unit: int) -> str:
    r"""Return *amount* in *unit*\ s without zeros at the end."""
    text = f"{Decimal(amount) / unit:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _text(value: Any) -> str:
    """Return a field's value as text; a form gives lists, REST gives numbers."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else ""
    return str(value if value is not None else "").strip()


class _Reader:
    """Reads fields and collects what is wrong."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self.given = given
        self.errors: dict[str, str] = {}

    def choice(self, name: str, allowed: tuple[str, ...], default: Any) -> str:
        value = self.given.get(name) or str(default)
        if value not in allowed:
            self.errors[name] = _("Choose one of: {names}.", names=", ".join(allowed))
            return str(default)
        return value

    def decimal(
        self, name: str, default: Decimal, low: Decimal, high: Decimal, empty: Decimal | None = Decimal(-1)
    ) -> Decimal | None:
        text = self.given.get(name)
        if text is None:
            return default
        if text == "":
            return default if empty is not None else None
        try:
            value = Decimal(text)
        except InvalidOperation:
            value = Decimal("NaN")
        if not value.is_finite() or not low <= value <= high:
            self.errors[name] = _("Write a number from {low} to {high}.", low=low, high=high)
            return default
        return value

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self.decimal(name, Decimal(default), Decimal(low), Decimal(high))
        if value is None or value != int(value):
            self.errors[name] = _("Write a whole number.")
            return default
        return int(value)

    def gibibytes(self, name: str, default: Decimal | None, low: Decimal, high: Decimal) -> int | None:
        if default is None and not self.given.get(name):
            return None
        value = self.decimal(name, default or low, low, high)
        return None if value is None else int(value * 1024)

    def partition(self, name: str) -> tuple[str, int, int] | None:
        found = re.fullmatch(r"([A-Za-z0-9._-]{1,80}):([1-9][0-9]{0,2}):([1-9][0-9]{0,8})", self.given.get(name, ""), re.ASCII)
        if found is None or int(found[2]) > CENTI_CARDS_PER_CARD:
            self.errors[name] = _("Choose one of the partitions.")
            return None
        return found[1], int(found[2]), int(found[3])

    def name(self, field: str) -> str | None:
        value = self.given.get(field) or None
        if value is not None and (len(value) > LONGEST_NAME or not value.isprintable()):
            self.errors[field] = _("Write at most {count} printable characters.", count=LONGEST_NAME)
            return None
        return value

    def datasets(self, name: str, value: Any) -> tuple[str, ...]:
        """Read names: several values of a form, a list of REST, or one text with commas, as in a link."""
        texts = value if isinstance(value, (list, tuple)) else [value]
        names = [part.strip() for text in texts for part in str(text if text is not None else "").split(",")]
        found = tuple(dict.fromkeys(filter(None, names)))
        try:
            return tuple(_DATASETS.validate_python(found))
        except ValidationError:
            self.errors[name] = _("Choose at most {count} data sets, by their names.", count=MOST_READ)
            return ()

    def server_name(self, name: str) -> str:
        value = self.given.get(name, "")
        if value and not re.fullmatch(r"[a-z][a-z0-9-]{0,29}", value):
            self.errors[name] = _("Use small letters, digits and hyphens, a letter first, at most 30.")
            return ""
        if value == DEFAULT_NAME:
            self.errors[name] = _("This is the name of the workspace without a name. Leave it empty, or choose another.")
            return ""
        return value
