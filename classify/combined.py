"""Combinations of several classifiers; this module imports no torch.

Each member sees the structure in its own crop, with its own margin, size and normalisation. For
each head, the members' probabilities, with classes of the other kind excluded, are averaged by
their shares. The shares may differ between vertebrae and discs, and a member without a share for a
kind is not run on it. A temperature calibrates the mean.

The predicted class is chosen by the mean divided by the training class frequency to the power of
tau (logit adjustment: Menon et al., "Long-tail learning via logit adjustment", ICLR 2021). v5 is
called from a threshold on. Neither changes the reported probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from spineline.classify.grades import Grades
from spineline.datasets.common.arrays import BoolArray, Float32Array, FloatArray, IntArray
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.crops.spec import CropSpec
from spineline.datasets.labels import SEVEN_NAMES, Kind
from spineline.datasets.metrics.grades import V5_THRESHOLD
from spineline.datasets.metrics.kind_masks import masked_seven

if TYPE_CHECKING:
    from spineline.classify.recipe import Head

HEAD_NAMES = ("seven", "binary")
Crops = npt.NDArray[np.uint8]


MemberKind = Literal["both", "disc", "vertebra"]
"""The kinds of structures that a member grades."""


class MemberClassifier(Protocol):
    """The interface of a combination's member: a `Classifier`, or an exported one."""

    @property
    def crop(self) -> CropSpec: ...  # noqa: D102

    @property
    def head(self) -> Head: ...  # noqa: D102

    def grade(self, crops: Crops, *, levels: IntArray | None = None) -> Grades: ...  # noqa: D102


class GroupClassifier(Protocol):
    """Members that share one forward pass, because they use the same features of the same crops."""

    def grades(  # noqa: D102
        self, crops: Crops, *, levels: IntArray | None = None
    ) -> list[Grades]: ...


@dataclass(frozen=True, slots=True)
class Combination:
    """How the members' answers are combined.

    Attributes:
        shares: of the members, by head; those of a head add up to 1, and a member without the head
            has 0. For discs only, if ``vertebra`` has others.
        temperature: by head; 1 leaves the mean unchanged.
        tau: exponent of the class adjustment; 0 chooses the most probable class.
        counts: number of training structures of each of the seven classes; empty if tau is 0.
        threshold: lowest probability at which v5 is called.
        vertebra: shares of ``seven`` for vertebrae; empty if they equal those for discs.
    """

    shares: Mapping[str, tuple[float, ...]]
    temperature: Mapping[str, float] = field(default_factory=dict)
    tau: float = 0.0
    counts: tuple[int, ...] = ()
    threshold: float = V5_THRESHOLD
    vertebra: tuple[float, ...] = ()

    def shares_of(self, head: str, kinds: Sequence[Kind | None]) -> FloatArray:
        """(members, N) shares of a head for structures; the mean of both kinds' if unknown.

        Only ``seven`` has separate shares for vertebrae; other heads use the same shares for both
        kinds.
        """
        disc = np.array(self.shares[head], dtype=np.float64)
        if head != "seven" or not self.vertebra:
            return np.repeat(disc[:, None], len(kinds), axis=1)
        vertebra = np.array(self.vertebra, dtype=np.float64)
        by_kind = {"disc": disc, "vertebra": vertebra, None: (disc + vertebra) / 2}
        return np.array([by_kind[kind] for kind in kinds]).reshape(-1, len(disc)).T

    def counts_for(self, kinds: Sequence[Kind | None]) -> BoolArray:
        """(members, N) whether a member's prediction for a structure counts."""
        counts = np.any([self.shares_of(head, kinds) > 0 for head in self.shares], axis=0)
        if not self.vertebra:
            return np.asarray(counts, dtype=np.bool_)
        vertebra = np.array([kind == "vertebra" for kind in kinds], dtype=np.bool_)
        return np.where(vertebra, self.shares_of("seven", kinds) > 0, counts)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the metadata of a weights file or of a bundle."""
        shares: dict[str, Any] = {head: list(shares) for head, shares in self.shares.items()}
        if self.vertebra:
            shares["seven"] = {"disc": shares["seven"], "vertebra": list(self.vertebra)}
        return {
            "shares": shares,
            "temperature": {head: self.temperature.get(head, 1.0) for head in self.shares},
            "tau": self.tau,
            "counts": list(self.counts),
            "threshold": self.threshold,
        }


def combination_from_json(value: Any, heads: Sequence[Head]) -> Combination:
    """The inverse of [Combination.to_json][].

    Args:
        value: plain values.
        heads: of the members, in their order.

    Raises:
        ValueError: an invalid number, or shares that do not match the members' heads.
        KeyError, TypeError: a value is missing, or has the wrong type.
    """
    said: dict[str, Any] = dict(value["shares"])
    vertebra: tuple[float, ...] = ()
    if isinstance(said.get("seven"), dict):
        by_kind = said["seven"]
        if sorted(by_kind) != ["disc", "vertebra"]:
            raise ValueError(f"shares of {', '.join(by_kind)!r:.80}, wanted disc and vertebra")
        said["seven"], vertebra = by_kind["disc"], tuple(map(_number, by_kind["vertebra"]))
        check_shares(vertebra, "seven", heads)
    shares = {name: tuple(map(_number, row)) for name, row in said.items()}
    wanted = heads_together(heads)
    if list(shares) != list(wanted):
        raise ValueError(f"shares of {', '.join(shares)}, wanted {', '.join(wanted)}")
    for name, row in shares.items():
        check_shares(row, name, heads)
    temperature = {name: _number(value["temperature"][name]) for name in shares}
    tau, threshold = _number(value["tau"]), _number(value["threshold"])
    counts = tuple(value["counts"])
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError(f"counts {counts!r:.100}")
    if min(temperature.values()) <= 0 or tau < 0 or not 0 < threshold <= 1:
        raise ValueError(f"temperature {temperature}, tau {tau}, threshold {threshold}")
    if len(counts) != (len(SEVEN_NAMES) if tau else len(counts)):
        raise ValueError(f"tau {tau} with {len(counts)} counts, wanted {len(SEVEN_NAMES)}")
    return Combination(shares, temperature, tau, counts, threshold, vertebra)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.40}, wanted a number")
    return float(value)


def has_head(head: Head, name: str) -> bool:
    """Whether a classifier with this head has the output ``name``, ``seven`` or ``binary``."""
    return head in (name, "both")


def heads_together(heads: Sequence[Head]) -> tuple[str, ...]:
    """The heads that at least one member has, in the order of the outputs."""
    return tuple(name for name in HEAD_NAMES if any(has_head(head, name) for head in heads))


def check_shares(shares: Sequence[float], name: str, heads: Sequence[Head]) -> None:
    """Refuse shares that do not fit the members.

    Raises:
        ValueError: with the reason.
    """
    if len(shares) != len(heads):
        raise ValueError(f"{len(shares)} shares of {name} for {len(heads)} members")
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-3:
        raise ValueError(f"shares of {name} {list(shares)}, wanted 0 or more that add up to 1")
    if any(share and not has_head(head, name) for share, head in zip(shares, heads, strict=True)):
        raise ValueError(f"a member without a {name} head has a share of it")


def given_shares(
    numbers: Sequence[float], heads: Sequence[Head], kinds: Sequence[MemberKind] = ()
) -> tuple[dict[str, tuple[float, ...]], tuple[float, ...]]:
    """Shares by head in proportion to one number per member, and the shares for vertebrae.

    Args:
        numbers: of the members.
        heads: of the members.
        kinds: the kinds that each member grades; empty if all members grade both.

    Returns:
        [Combination.shares][] and [Combination.vertebra][].

    Raises:
        ConfigError: wrong count, a negative number, or no positive number for a head or kind.
    """
    shown = ",".join(f"{number:g}" for number in numbers)
    if len(numbers) != len(heads):
        msg = f"shares={shown}: {len(numbers)} numbers for {len(heads)} classifiers; give one each"
        raise ConfigError(msg)
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ConfigError(f"shares={shown}: wanted numbers of 0 or more")

    def row(name: str, kind: Kind) -> tuple[float, ...]:
        own = [
            number if has_head(head, name) and answers else 0.0
            for number, head, answers in zip(
                numbers, heads, answering(kinds, len(heads), kind), strict=True
            )
        ]
        if not sum(own):
            msg = f"shares={shown}: no classifier with a {name} head has a share"
            raise ConfigError(f"{msg} for the kind {kind}" if kinds else msg)
        return tuple(number / sum(own) for number in own)

    shares = {name: row(name, "disc") for name in heads_together(heads)}
    split = "seven" in shares and any(kind != "both" for kind in kinds)
    return shares, row("seven", "vertebra") if split else ()


def answering(kinds: Sequence[MemberKind], count: int, kind: Kind) -> list[bool]:
    """Which of ``count`` members grade a kind; all of them if ``kinds`` is empty.

    >>> answering(["both", "disc"], 2, "vertebra")
    [True, False]
    """
    return [each in ("both", kind) for each in kinds] or [True] * count


def equal_shares(heads: Sequence[Head]) -> dict[str, tuple[float, ...]]:
    """Equal shares of a head for all members that have it.

    >>> equal_shares(["both", "seven"])
    {'seven': (0.5, 0.5), 'binary': (1.0, 0.0)}
    """
    return given_shares([1.0] * len(heads), heads)[0]


def mean_probabilities(tables: Sequence[FloatArray | None], shares: FloatArray) -> FloatArray:
    """(N, C) weighted mean of the members' (N, C) probabilities.

    Args:
        tables: of the members; tables of members without a share are ignored.
        shares: (members, N), see [Combination.shares_of][].
    """
    pairs = [
        (table, share)
        for table, share in zip(tables, shares, strict=True)
        if table is not None and (share.any() or not share.size)
    ]
    return np.asarray(sum(table * share[:, None] for table, share in pairs), dtype=np.float64)


def tempered(log_p: FloatArray, temperature: npt.ArrayLike) -> FloatArray:
    """(N, C) probabilities from log-probabilities divided by temperatures (N,) or (1,)."""
    scaled = log_p / np.asarray(temperature, dtype=np.float64)[:, None]
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


def with_temperature(p: FloatArray, temperature: float) -> FloatArray:
    """(N, C) probabilities at a temperature; 1 returns them unchanged."""
    if temperature == 1 or not len(p):
        return p
    with np.errstate(divide="ignore"):
        return tempered(np.log(p), [temperature])


def adjusted_codes(p: FloatArray, tau: float, counts: Sequence[int]) -> IntArray:
    """(N,) the class with the greatest p / frequency ** tau among the classes not excluded.

    A class without training structures counts as if it had one.

    Args:
        p: (N, C) probabilities, 0 for excluded classes.
        tau: 0 for the most probable class.
        counts: (C,) training structures of each class.
    """
    if not tau:
        return np.asarray(p.argmax(axis=1), dtype=np.int64)
    with np.errstate(divide="ignore"):
        score = np.log(p) - tau * np.log(np.maximum(np.asarray(counts, dtype=np.float64), 1))
    return np.asarray(score.argmax(axis=1), dtype=np.int64)


@dataclass(frozen=True)
class CombinedClassifier:
    """Several classifiers whose predictions are combined.

    Attributes:
        members: the classifiers, each with its own crops.
        combination: how their predictions are combined.
        groups: numbers of the members that share a forward pass, with the network that runs it.
            Other members run separately.
    """

    members: tuple[MemberClassifier, ...]
    combination: Combination
    groups: tuple[tuple[tuple[int, ...], GroupClassifier], ...] = ()

    @property
    def crops(self) -> tuple[CropSpec, ...]:
        """How each member's crops are cut."""
        return tuple(member.crop for member in self.members)

    @property
    def head(self) -> Head:
        """The heads of the combination."""
        names = heads_together([member.head for member in self.members])
        return "both" if len(names) == 2 else "seven" if "seven" in names else "binary"

    def run_on(self, kinds: Sequence[Kind | None]) -> BoolArray:
        """(members, N) the structures that each member is run on; groups run together."""
        selected = self.combination.counts_for(kinds)
        for numbers, _ in self.groups:
            selected[list(numbers)] = selected[list(numbers)].any(axis=0)
        return selected

    def cut(
        self,
        cut: Callable[[CropSpec, BoolArray | None], Crops],
        kinds: Sequence[Kind | None] | None = None,
    ) -> list[Crops]:
        """Crops for each member; members with the same crop settings share them.

        Args:
            cut: returns crops (N, S, S) of the structures, cut by the given specification. If its
                second argument, (N,) bool, is not None, it returns only the selected ones.
            kinds: of each structure; each member then gets only the crops that it is run on. None
                gives each member all crops.
        """
        if kinds is None:
            by_spec = {spec: cut(spec, None) for spec in dict.fromkeys(self.crops)}
            return [by_spec[spec] for spec in self.crops]
        found: dict[tuple[CropSpec, bytes], Crops] = {}
        crops: list[Crops] = []
        for spec, rows in zip(self.crops, self.run_on(kinds), strict=True):
            key = spec, rows.tobytes()
            if key not in found:
                found[key] = cut(spec, None if rows.all() else rows)
            crops.append(found[key])
        return crops

    def grade(
        self,
        crops: Sequence[Crops],
        kinds: Sequence[Kind | None] | None = None,
        *,
        levels: IntArray | None = None,
        batch: int | None = None,
    ) -> Grades:
        """Grade structures, with one call of each member for all of them.

        Args:
            crops: for each member, (N, size, size) uint8, or only the crops that it is run on, see
                `cut`.
            kinds: of each structure, if known; classes of the other kind are excluded.
            levels: (N,) index of each structure's level among the eleven, -1 if unknown.
            batch: crops per forward pass; None for the member's own.

        Raises:
            ValueError: crops with an unexpected shape, dtype or count.
        """
        counts = [len(each) for each in crops]
        known = [None] * max(counts, default=0) if kinds is None else list(kinds)
        selected = self.run_on(known)
        if len(crops) != len(self.members) or (kinds is None and len(set(counts)) > 1):
            msg = (
                f"crops: wanted a list of {len(self.members)} arrays (N, size, size), one for each "
                f"member of the combined classifier, as cut returns them; found {len(crops)} "
                f"of {', '.join(map(str, sorted(set(counts))))} crops"
            )
            raise ValueError(msg)
        for count, rows in zip(counts, selected, strict=True):
            if count not in (len(known), rows.sum()):
                raise ValueError(f"{count} crops but {len(known)} kinds")
        alone = {
            number: (own if len(own) == rows.sum() else own[rows], rows)
            for number, (own, rows) in enumerate(zip(crops, selected, strict=True))
        }
        places = None if levels is None else np.asarray(levels)
        more = {} if batch is None else {"batch": batch}
        found: dict[int, Grades] = {}
        for numbers, group in self.groups:
            own, rows = alone[numbers[0]]
            said = group.grades(own, levels=None if places is None else places[rows], **more)
            found |= {n: _spread(each, rows) for n, each in zip(numbers, said, strict=True)}
        for number, member in enumerate(self.members):
            if number not in found:
                own, rows = alone[number]
                answer = member.grade(own, levels=None if places is None else places[rows], **more)
                found[number] = _spread(answer, rows)
        return combined_grades(
            [found[number] for number in range(len(self.members))], self.combination, known
        )


def _spread(grades: Grades, rows: BoolArray) -> Grades:
    """Grades of the selected rows among all (N,); the other rows are zero."""
    if rows.all():
        return grades

    def spread(table: Float32Array | None) -> Float32Array | None:
        if table is None:
            return None
        whole = np.zeros((len(rows), *table.shape[1:]), table.dtype)
        whole[rows] = table
        return whole

    return Grades(spread(grades.seven), spread(grades.binary))


def combined_grades(
    grades: Sequence[Grades], combination: Combination, kinds: Sequence[Kind | None]
) -> Grades:
    """The combined grades of N structures.

    Args:
        grades: of the members, one row for each structure.
        combination: how they are combined.
        kinds: of the structures; None where unknown.
    """
    shares = {head: combination.shares_of(head, kinds) for head in combination.shares}
    temperature = combination.temperature
    found = Grades(None, None, threshold=combination.threshold)
    if "seven" in shares:
        tables = [None if g.seven is None else masked_seven(kinds, g.seven) for g in grades]
        mean = with_temperature(
            mean_probabilities(tables, shares["seven"]), temperature.get("seven", 1.0)
        )
        codes = adjusted_codes(mean, combination.tau, combination.counts)
        found = replace(found, seven=mean.astype(np.float32), seven_code=codes)
    if "binary" in shares:
        vertebra = np.array([kind == "vertebra" for kind in kinds], dtype=np.bool_)
        v5 = [None if g.binary is None else two_classes(g.binary) for g in grades]
        mean = with_temperature(
            mean_probabilities(v5, shares["binary"]), temperature.get("binary", 1.0)
        )
        yes = np.where(vertebra, 0.0, mean[:, 1])
        found = replace(found, binary=yes.astype(np.float32))
    return found


def two_classes(yes: npt.ArrayLike) -> FloatArray:
    """(N, 2) probabilities of no and yes from the probability of yes (N,)."""
    p = np.asarray(yes, dtype=np.float64)
    return np.stack([1 - p, p], axis=1)
