"""Faults known from the code of this field, planted into ours: the suite's own tests have to notice each of them.

A fault changes the code at run time; the test named beside it, which passes otherwise, is then run and must fail. A
fault that nothing notices would be a hole in the suite.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prerank.batch import Batch, Features, History, Ragged
from prerank.data.encoder import Encoder
from prerank.data.log import Dataset, Timelines
from prerank.data.sampling import NegativeSampler
from prerank.layers.cross_attention import GatedCrossAttention
from prerank.layers.dice import DiceLinear
from prerank.layers.dien import NextBehaviour
from prerank.layers.interaction import DINUnit
from prerank.layers.similarity import SumMax, head_similarities
from prerank.layers.squeeze import LightSE
from prerank.layers.tower import Tower
from prerank.models import dat, fit, hit, int_tower
from prerank.models.dat import DAT
from prerank.models.fit import FIT
from prerank.models.single_tower import SingleTower
from prerank.publish import files
from prerank.publish.store import ItemStore

ROOT = Path(__file__).parents[1]
CRASHED = re.compile(r"^E +(TypeError|AttributeError|NameError|KeyError|IndexError)", re.MULTILINE)

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Fault:
    """What is wrong, and which test of the suite has to say so."""

    plant: Plant
    noticed_by: str


def replaced(owner: object, name: str, value: object) -> Plant:
    """The fault of having something else in the place of an attribute."""
    return lambda patch: patch.setattr(owner, name, value)


def unchanged(_: nn.Module, x: Tensor, *__: Tensor) -> Tensor:
    """A layer that is created, and used by nobody."""
    return x


def nothing(first: Tensor, *_: object) -> Tensor:
    """A loss that is computed, and left out of the sum."""
    return first.sum() * 0.0


def soft_query_at_serving(model: FIT, batch: Batch) -> Tensor:
    return model.relaxed(batch, 0.5)[0]


def mean_over_item_heads(scorer: SumMax, user: Tensor, item: Tensor) -> Tensor:
    return head_similarities(user, item, *scorer.heads).mean(dim=-1).sum(dim=-1)


def last_layer_only(tower: Tower, x: Tensor) -> list[Tensor]:
    """The hidden layers of a tower are as if they were zero."""
    *hidden, last = every(tower, x)
    return [*(torch.zeros_like(layer) for layer in hidden), last]


every = Tower.every


def mimic_that_teaches_both(augmented: Tensor, partner: Tensor, labels: Tensor) -> Tensor:
    return (labels * (augmented - partner).square().sum(dim=-1)).mean()


def random_augmented_vectors(patch: pytest.MonkeyPatch) -> None:
    """As in a published implementation of DAT: drawn anew in every forward pass."""
    plain = DAT.user

    def user(model: DAT, features: Features, history: History) -> Tensor:
        table = model.user_augmented.tables[0]
        with torch.no_grad():
            table.copy_(torch.rand_like(table))
        return plain(model, features, history)

    patch.setattr(DAT, "user", user)


def batch_statistics_always(patch: pytest.MonkeyPatch) -> None:
    plain = DiceLinear.forward

    def forward(layer: DiceLinear, x: Tensor) -> Tensor:
        mode, layer.training = layer.training, True
        try:
            return plain(layer, x)
        finally:
            layer.training = mode

    patch.setattr(DiceLinear, "forward", forward)


def padding_in_the_history(patch: pytest.MonkeyPatch) -> None:
    """Every history begins with the table's first behaviour, as padding that is not masked would."""
    plain = DINUnit.forward

    def forward(unit: DINUnit, queries: Tensor, history: History) -> Tensor:
        lists = [torch.cat([torch.zeros(1, dtype=torch.int64), one]) for one in _lists(history.steps)]
        offsets = torch.tensor([0, *(len(one) for one in lists)]).cumsum(0)
        return plain(unit, queries, History(history.table, Ragged(torch.cat(lists), offsets)))

    patch.setattr(DINUnit, "forward", forward)


def _lists(steps: Ragged) -> list[Tensor]:
    return list(steps.values.split(steps.lengths.tolist()))


def oldest_first(steps: Ragged) -> Tensor:
    return torch.cat([torch.arange(length) for length in steps.lengths.tolist()])


def window_with_the_event(patch: pytest.MonkeyPatch) -> None:
    plain = Timelines.windows
    patch.setattr(Timelines, "windows", lambda lines, users, ends, length: plain(lines, users, ends + 1, length))


def vocabularies_of_the_test_part(patch: pytest.MonkeyPatch) -> None:
    plain = Encoder.fit

    def fitted(dataset: Dataset) -> Encoder:
        return plain(replace(dataset, parts={**dataset.parts, "train": dataset.parts["test"]}))

    patch.setattr(Encoder, "fit", fitted)


def rows_of_other_items(patch: pytest.MonkeyPatch) -> None:
    plain = ItemStore.gather
    patch.setattr(ItemStore, "gather", lambda store, positions: plain(store, np.roll(positions, 1)))


def linear_term_left_out(patch: pytest.MonkeyPatch) -> None:
    def score(model: SingleTower, user: Tensor, item: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(user.shape[:-1], item.shape[:-1])
        scalar = 0 if model.linear is None else 1
        joined = torch.cat([side[..., scalar:].expand(*shape, -1) for side in (user, item)], dim=-1)
        return model.logit(joined.view(-1, len(model.field_names), model.config.embedding)).view(shape)

    patch.setattr(SingleTower, "score", score)


CONTRACT = "tests/test_contract.py::"
MODELS = "tests/models/test_"
LAYERS = "tests/layers/test_"
FAULTS: dict[str, Fault] = {
    "FIT is evaluated by its soft query": Fault(
        replaced(FIT, "forward", soft_query_at_serving), f"{CONTRACT}test_served_grid_equals_rows[fit]"
    ),
    "FIT's temperature never falls": Fault(
        replaced(fit, "temperature", lambda *_: 1.0), f"{MODELS}fit.py::test_training_approaches_the_served_path"
    ),
    "sum-max is a mean over item heads": Fault(
        replaced(SumMax, "forward", mean_over_item_heads),
        f"{MODELS}int_tower.py::test_score_is_the_sum_over_layers_of_sum_max",
    ),
    "Dice takes the batch's statistics in evaluation": Fault(
        batch_statistics_always, f"{CONTRACT}test_one_by_one_equals_batch_whatever_the_padding[fit]"
    ),
    "padding counts in the attention": Fault(padding_in_the_history, f"{LAYERS}interaction.py::test_hand_arithmetic"),
    "places in the history are counted from its beginning": Fault(
        replaced(Ragged, "from_end", property(oldest_first)), f"{LAYERS}recency.py::test_by_hand"
    ),
    "IntTower's Light-SE is bypassed": Fault(
        replaced(LightSE, "forward", unchanged), f"{MODELS}int_tower.py::test_field_weights_act_on_each_side"
    ),
    "IntTower's contrastive loss is left out": Fault(
        replaced(int_tower, "info_nce", lambda users, *_: nothing(users)),
        f"{MODELS}int_tower.py::test_contrastive_loss_equals_the_loop",
    ),
    "IntTower reads the last user layer only": Fault(
        replaced(Tower, "every", last_layer_only),
        f"{MODELS}int_tower.py::test_every_user_layer_counts_unless_the_last_alone_is_asked_for",
    ),
    "DAT's vectors are random": Fault(
        random_augmented_vectors, f"{MODELS}dat.py::test_augmented_vectors_are_of_the_id_and_nothing_random"
    ),
    "DAT's mimic loss teaches the towers, too": Fault(
        replaced(dat, "mimic", mimic_that_teaches_both),
        f"{MODELS}dat.py::test_mimic_losses_equal_numpy_and_reach_the_augmented_vectors_only",
    ),
    "DAT's category alignment is left out": Fault(
        replaced(dat, "category_alignment", nothing), f"{MODELS}dat.py::test_alignment_equals_numpy_covariances"
    ),
    "HIT's generators learn nothing": Fault(
        replaced(hit, "generation", nothing), f"{MODELS}hit.py::test_each_generator_imitates_its_own_kind_of_partner"
    ),
    "RankTower's cross-attention is bypassed": Fault(
        replaced(GatedCrossAttention, "forward", unchanged),
        f"{MODELS}rank_tower.py::test_each_side_attends_to_the_other",
    ),
    "DIEN's auxiliary loss is left out": Fault(
        replaced(NextBehaviour, "forward", lambda _, interests, *__: nothing(interests)),
        f"{MODELS}target_attention.py::test_dien_learns_the_next_behaviour_too",
    ),
    "a wide model has no linear term": Fault(
        linear_term_left_out, f"{MODELS}single_tower.py::test_a_wide_model_adds_a_weight_of_each_value"
    ),
    "a history holds its own event": Fault(
        window_with_the_event, "tests/data/test_log.py::test_windows_are_the_last_ones_before_the_end"
    ),
    "negatives may be items that the user touched": Fault(
        replaced(NegativeSampler, "_refused", lambda *given: np.zeros(given[-1].shape, dtype=bool)),
        "tests/data/test_sampling.py::test_uniform_over_what_the_user_never_touched",
    ),
    "vocabularies come from the test part": Fault(
        vocabularies_of_the_test_part, "tests/data/test_encoder.py::test_vocabularies_hold_the_training_part_only"
    ),
    "the store returns the rows of other items": Fault(
        rows_of_other_items, "tests/publish/test_publish.py::test_published_and_located[two_tower-float32]"
    ),
    "files are not hashed before they are opened": Fault(
        replaced(files, "check_files", lambda *_: None),
        "tests/publish/test_damage.py::test_a_flipped_bit_anywhere_is_refused_by_name[buckets.json]",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_suite_notices(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fault = FAULTS[name]
    fault.plant(monkeypatch)
    monkeypatch.chdir(ROOT)
    code = pytest.main(["--no-header", "-p", "no:cacheprovider", fault.noticed_by])
    printed = capsys.readouterr().out
    assert code == pytest.ExitCode.TESTS_FAILED, printed[-2000:]
    assert not CRASHED.search(printed), f"the fault does not run, so it proves nothing: {printed[-2000:]}"
