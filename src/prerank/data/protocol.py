"""How a log becomes training and test rows: the papers' protocols as named presets of one configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from prerank.config import Strict, override, parse
from prerank.errors import ConfigError


class Protocol(Strict):
    """The choices that define a benchmark, recorded in every result.

    Ties (events of one user at the same time): ``file`` keeps the order of the source, ``shuffled`` draws an
    order (for orders that may echo how a page was displayed), ``strict`` keeps file order but lets no event see
    another one of the same time.
    """

    name: str = "custom"
    history: int = Field(default=50, ge=0, description="behaviours kept per row, the most recent ones")
    ties: Literal["file", "shuffled", "strict"] = "file"
    drop_ratings: tuple[float, ...] = ()
    users: Literal["all", "has_history", "has_click"] = Field(
        default="all",
        description="requests kept. has_history: those with at least one earlier behaviour; has_click: those of "
        "users with at least one positive anywhere (IntTower's cleaning of Taobao; it looks at test labels)",
    )
    labels: Literal["sampled", "rating", "given", "stages"] = Field(
        default="sampled",
        description="sampled: every event is a positive and gets unseen negatives; rating: at least "
        "positive_rating; given: the source's label column; stages: events of the highest stage are positives, and "
        "get events of their request from the lower stages and unseen negatives",
    )
    positive_rating: float = 4.0
    targets: Literal["every", "last"] = Field(
        default="every", description="sampled labels: which of a user's events become rows"
    )
    negatives: int = Field(default=1, ge=1, description="sampled negatives per positive")
    per_stage: int = Field(default=2, ge=1, description="stages: candidates from each lower stage per positive")
    negatives_from: Literal["catalogue", "events"] = Field(
        default="catalogue",
        description="catalogue: uniform over items that the user never touched (DIN); events: as frequent as in "
        "the log and different from the target only (DIEN)",
    )
    test: Literal["last", "users", "rows", "time"] = "last"
    test_size: float = Field(
        default=1,
        gt=0,
        description="last: events per user; users and rows: share; time: last seconds of the log",
    )
    validation: float = Field(default=0.2, gt=0, lt=1, description="share of the training requests")
    validation_by: Literal["rows", "users", "time"] = "rows"
    seed: int = Field(default=1234, ge=0)

    @model_validator(mode="after")
    def _test_size_fits(self) -> Self:
        size = self.test_size
        if self.test == "last" and size != int(size):
            raise ValueError(f"test=last needs test_size as a whole number of events, got {size:g}")
        if self.test in ("users", "rows") and size >= 1:
            raise ValueError(f"test={self.test} needs test_size as a share below 1, got {size:g}")
        return self

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        read_by = {
            "targets": ["sampled"],
            "negatives": ["sampled", "stages"],
            "negatives_from": ["sampled", "stages"],
            "per_stage": ["stages"],
            "positive_rating": ["rating"],
        }
        for key, labels in read_by.items():
            if self.labels not in labels and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is read with labels={' or '.join(labels)} only, not with labels={self.labels}")
        return self

    @model_validator(mode="after")
    def _a_request_does_not_see_itself(self) -> Self:
        if self.labels == "stages" and self.ties != "strict":
            raise ValueError("labels=stages needs ties=strict: what came of a request must not be in its history")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    # Every behaviour but a user's first is a positive, one unseen uniform negative each; a user's last is the test
    # (the DIN authors' protocol, which FIT sec. 5.1.1 follows).
    "din": {},
    # FIT's ML-1M: 3,668 movies are what is left when ratings of 3 are dropped (IntTower's cleaning).
    "fit": {"drop_ratings": (3.0,)},
    # The DIEN authors' protocol: one positive and one negative per user, users split 90/10, histories of 100.
    "dien": {
        "targets": "last",
        "negatives_from": "events",
        "test": "users",
        "test_size": 0.1,
        "validation_by": "users",
        "history": 100,
    },
    # IntTower sec. 5.1: labels from ratings, 80/20 random rows. Its mean ratings, computed from test labels in the
    # authors' code, are left out: they are a label leak.
    "inttower": {"labels": "rating", "drop_ratings": (3.0,), "test": "rows", "test_size": 0.2},
    # Impressions with given labels, the last day for the test. A page shows several items at one time, and what was
    # clicked on it must not be seen by its other impressions: ties are strict.
    "impressions": {"labels": "given", "ties": "strict", "test": "time", "test_size": 86400, "users": "has_history"},
    # The filter that explains the click rate of FIT's and IntTower's Taobao tables.
    "taobao": {"labels": "given", "ties": "strict", "test": "time", "test_size": 86400, "users": "has_click"},
}


def preset(name: str, changes: Sequence[str] = ()) -> Protocol:
    """The named protocol with dotted ``key=value`` changes, for example ``ties=shuffled``.

    Raises:
        ConfigError: no such preset, or a change that the protocol does not know.
    """
    if name not in PRESETS:
        raise ConfigError(f"--preset {name}: unknown; presets: {', '.join(PRESETS)}")
    values = override({"name": name, **PRESETS[name]}, changes)
    return parse(Protocol, values, f"protocol {name}")
