"""The catalogue of cards: models, memory, how each can be cut, and the names of its resources.

``catalogue/*.yaml`` holds one vendor a file; an operator's own folder may add vendors, or cards to a known vendor. A model of
card can be cut in three ways (its *shapes*): **continuous** (any share in steps), **templates** (a fixed list that a request is
rounded up to) and **placements** (partitions that occupy certain slices of the card). Every card can be given whole.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tessera_vgpu.errors import VgpuError

LOG: Final = logging.getLogger(__name__)
CENTI_CARDS_PER_CARD: Final = 100
BUILT_IN: Final = Path(__file__).parent / "catalogue"
_MIB_PER_GIB: Final = 1024
_REASONS: Final = {"extra_forbidden": "there is no such key", "missing": "this key is missing"}
_PROFILE: Final = re.compile(r"(\d)g\.(\d+)gb(\.me)?")

Resource = Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._{}-]+$", max_length=128)]
"""Name of an extended resource of Kubernetes."""
Positive = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A misspelt key is refused, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Continuous(Strict):
    """Any share, in steps. ``enforced_by`` is ``tessera`` where our interposer holds the limits, else ``vendor``."""

    kind: Literal["continuous"]
    enforced_by: Literal["tessera", "vendor"]
    compute_resource: Resource
    memory_resource: Resource
    step_centi_cards: Annotated[int, Field(ge=1, le=100)] = 1
    step_memory_mib: Positive = 1


class Template(Strict):
    """One size of a virtual card: ``compute`` in the card's processors."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    compute: Positive
    memory_mib: Positive


class Templates(Strict):
    """A fixed list of sizes. ``pattern`` restricts them to chips whose driver name matches; empty: all of the model."""

    kind: Literal["templates"]
    pattern: str = ""
    compute: Positive
    count_resource: Resource
    memory_resource: Resource
    templates: Annotated[tuple[Template, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [t.name for t in self.templates]
        if len(set(names)) != len(names):
            raise ValueError("a template occurs twice; remove one")
        if large := [t.name for t in self.templates if t.compute > self.compute]:
            raise ValueError(f"template {large[0]} has more compute than its card ({self.compute})")
        return self

    def centi_cards(self, template: Template) -> int:
        """Return the template's part of a card, rounded down."""
        return template.compute * CENTI_CARDS_PER_CARD // self.compute


class Profile(Strict):
    """A partition. ``size`` is how many memory slices it takes, ``starts`` the slices it may begin at, ``most`` per card."""

    size: Positive
    starts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    most: Positive | None = None


class Placements(Strict):
    """Partitions at fixed places, as NVIDIA's MIG. A profile is named ``3g.40gb``: compute slices, then memory in GiB.

    The memory that the driver tells at run time is a little less than the name says and counts where a real card is there.
    """

    kind: Literal["placements"]
    memory_slices: Annotated[int, Field(ge=1, le=32)]
    compute_slices: Annotated[int, Field(ge=1, le=32)]
    resource: Resource
    profiles: Annotated[dict[str, Profile], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if "{profile}" not in self.resource:
            raise ValueError("resource needs the place {profile}, as in nvidia.com/mig-{profile}")
        for name, profile in self.profiles.items():
            match = _PROFILE.fullmatch(name)
            if match is None:
                raise ValueError(f"profile {name} is not named like 3g.40gb or 1g.10gb.me")
            if int(match[1]) > self.compute_slices:
                raise ValueError(f"profile {name} has more compute slices than the card ({self.compute_slices})")
            if len(set(profile.starts)) != len(profile.starts) or list(profile.starts) != sorted(profile.starts):
                raise ValueError(f"the starts of profile {name} must ascend")
            if profile.starts[-1] + profile.size > self.memory_slices:
                raise ValueError(f"profile {name} reaches beyond slice {self.memory_slices - 1}")
        return self

    @staticmethod
    def compute_of(profile: str) -> int:
        """Return the compute slices of a profile, by its name."""
        match = _PROFILE.fullmatch(profile)
        assert match is not None
        return int(match[1])

    @staticmethod
    def memory_mib(profile: str) -> int:
        """Return the nominal memory of a profile, by its name."""
        match = _PROFILE.fullmatch(profile)
        assert match is not None
        return int(match[2]) * _MIB_PER_GIB

    def centi_cards(self, profile: str) -> int:
        """Return a profile's part of a card, rounded down."""
        return self.compute_of(profile) * CENTI_CARDS_PER_CARD // self.compute_slices


Shape = Annotated[Continuous | Templates | Placements, Field(discriminator="kind")]


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


class CardModel(Strict):
    """One model of card.

    ``processors`` are multiprocessors, AI cores or compute units, None where the vendor does not tell; ``driver_names`` are what
    drivers call it, each of which ``pattern`` must match.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    pattern: str
    driver_names: Annotated[tuple[str, ...], Field(min_length=1)]
    generation: str
    memory_mib: Positive
    processors: Positive | None = None
    resource: Resource
    shapes: tuple[Shape, ...] = ()

    _pattern = field_validator("pattern")(_expression)

    @model_validator(mode="after")
    def _recognised(self) -> Self:
        for name in self.driver_names:
            if not re.search(self.pattern, name):
                raise ValueError(f"pattern does not match the driver name {name!r}")
        return self

    @property
    def modes(self) -> frozenset[str]:
        """How Tessera gives this card: ``whole``, ``vcuda`` (a share that the interposer enforces), ``mig``."""
        modes = {"whole"}
        for shape in self.shapes:
            if isinstance(shape, Placements):
                modes.add("mig")
            elif isinstance(shape, Continuous) and shape.enforced_by == "tessera":
                modes.add("vcuda")
        return frozenset(modes)

    @property
    def continuous(self) -> Continuous | None:
        """Its continuous shape, if it has one."""
        return next((s for s in self.shapes if isinstance(s, Continuous)), None)

    @property
    def placements(self) -> Placements | None:
        """Its placements, if it has any."""
        return next((s for s in self.shapes if isinstance(s, Placements)), None)

    def templates(self, driver_name: str) -> Templates | None:
        """Return the templates of a chip, None where there are none."""
        return next((s for s in self.shapes if isinstance(s, Templates) and re.search(s.pattern, driver_name)), None)


class VendorFile(Strict):
    """One file. ``definitions`` is for YAML anchors and not read."""

    vendor: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    cards: tuple[CardModel, ...]
    definitions: Any = None

    @model_validator(mode="after")
    def _enforceable(self) -> Self:
        for card in self.cards:
            if self.vendor != "nvidia" and card.continuous is not None and card.continuous.enforced_by == "tessera":
                raise ValueError(f"{card.name}: Tessera cuts cards of nvidia only; write enforced_by: vendor")
        return self


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All models by name, and the vendor of each."""

    cards: Mapping[str, CardModel]
    vendors: Mapping[str, str]

    def recognise(self, driver_name: str) -> CardModel | None:
        """Return the model that a driver's name means, None for one that the catalogue lacks."""
        return next((card for card in self.cards.values() if re.search(card.pattern, driver_name)), None)

    def of_vendor(self, vendor: str) -> tuple[CardModel, ...]:
        """Return a vendor's models."""
        return tuple(card for name, card in self.cards.items() if self.vendors[name] == vendor)


def load(folders: Sequence[Path] = (BUILT_IN,)) -> Catalogue:
    """Read the catalogue.

    Raises:
        VgpuError: ``catalogue.unreadable``, ``catalogue.syntax``, ``catalogue.field``, ``catalogue.duplicate`` or
            ``catalogue.ambiguous``; file and line are in the message.
    """
    cards: dict[str, CardModel] = {}
    vendors: dict[str, str] = {}
    for folder in folders:
        if not folder.is_dir():
            raise VgpuError(
                "catalogue.unreadable",
                "{file} cannot be read: {reason}.",
                "Give a folder of .yaml files that the node agent may read.",
                file=folder,
                reason="not a folder",
            )
        for path in sorted(folder.glob("*.yml")):
            LOG.warning("%s is not read: the catalogue reads files named *.yaml", path)
        for path in sorted(folder.glob("*.yaml")):
            for vendor, card in _read(path):
                if card.name in cards:
                    raise VgpuError(
                        "catalogue.duplicate",
                        "{file}: card {card} is in the catalogue already.",
                        "Give it another name, or remove one of the two.",
                        file=path,
                        card=card.name,
                    )
                cards[card.name], vendors[card.name] = card, vendor
    _check_unambiguous(cards.values())
    return Catalogue(cards, vendors)


def _check_unambiguous(cards: Iterable[CardModel]) -> None:
    cards = tuple(cards)
    for card in cards:
        for name in card.driver_names:
            if others := [other.name for other in cards if other is not card and re.search(other.pattern, name)]:
                raise VgpuError(
                    "catalogue.ambiguous",
                    "The driver name {name} of card {card} matches the pattern of {other}, too.",
                    "Make the patterns narrower, so that each name means one card.",
                    name=name,
                    card=card.name,
                    other=others[0],
                )


def _read(path: Path) -> Iterator[tuple[str, CardModel]]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VgpuError(
            "catalogue.unreadable",
            "{file} cannot be read: {reason}.",
            "Give a folder of .yaml files that the node agent may read.",
            file=path,
            reason=error,
        ) from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise VgpuError(
            "catalogue.syntax",
            "{file}, line {line}: not valid YAML: {reason}.",
            "Check indentation, colons and quotes at that line.",
            file=path,
            line=mark.line + 1 if mark is not None else 1,
            reason=getattr(error, "problem", None) or error,
        ) from error
    _refuse_repeated_keys(path, node)
    try:
        found = VendorFile.model_validate(content)
    except ValidationError as error:
        found_wrong = error.errors(include_url=False)
        # A misspelt key also leaves its field missing; the key is what a person has to look at.
        first = next((one for one in found_wrong if one["type"] == "extra_forbidden"), found_wrong[0])
        line, field = _where(node, first["loc"])
        raise VgpuError(
            "catalogue.field",
            "{file}, line {line}, {field}: {reason}.",
            "Correct this field; docs/reference/vgpu.md describes each.",
            file=path,
            line=line,
            field=field or "the file",
            reason=_REASONS.get(first["type"]) or first["msg"].removeprefix("Value error, "),
        ) from error
    for card in found.cards:
        yield found.vendor, card


def _refuse_repeated_keys(path: Path, node: yaml.Node | None) -> None:
    """YAML readers keep the last of two equal keys without a word; a catalogue refuses them."""
    waiting = [node]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, yaml.SequenceNode):
            waiting += current.value
        elif isinstance(current, yaml.MappingNode):
            keys = Counter(key.value for key, _value in current.value if isinstance(key, yaml.ScalarNode))
            for key, value in current.value:
                if isinstance(key, yaml.ScalarNode) and keys[key.value] > 1:
                    raise VgpuError(
                        "catalogue.field",
                        "{file}, line {line}, {field}: {reason}.",
                        "Correct this field; docs/reference/vgpu.md describes each.",
                        file=path,
                        line=key.start_mark.line + 1,
                        field=key.value,
                        reason="this key occurs twice",
                    )
                waiting.append(value)


def _where(node: yaml.Node | None, location: Sequence[int | str]) -> tuple[int, str]:
    """Return the line of a field, and its name such as ``cards.A100-80G.memory_mib``; a step that is not in the file is a
    missing field, or the tag of a union."""
    line, names = 1, list[str]()
    for step in location:
        following: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            following = next((value for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            following = node.value[step]
        if following is None:
            if isinstance(node, yaml.MappingNode) and step not in ("continuous", "templates", "placements"):
                names.append(str(step))
            continue
        node = following
        line = node.start_mark.line + 1
        own = next((v.value for k, v in node.value if k.value == "name"), None) if isinstance(node, yaml.MappingNode) else None
        names.append(str(step) if own is None or not isinstance(step, int) else str(own))
    return line, ".".join(names)
