import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from dnamamba.errors import UsageError
from dnamamba.evaluation.calls import Calls
from dnamamba.evaluation.contest import (
    COLUMNS,
    Contest,
    Place,
    own,
    percent,
    pool_folds,
    rows,
    verdict,
    write_calls,
    write_contests,
)

SPECIES = ("human", "gorilla")


def calls(right: list[bool] | np.ndarray, windows_of_locus: int = 2, sure: float = 0.8) -> Calls:
    """Windows of each species in turn, called right or wrong as told."""
    true = np.arange(len(right)) % 2
    called = np.where(right, true, 1 - true)
    probabilities = np.where(np.eye(2, dtype=bool)[called], sure, 1 - sure)
    return Calls(SPECIES, probabilities, true, np.arange(len(right)) // windows_of_locus)


def share(accuracy: float, windows: int = 400, seed: int = 0, **kwargs: int) -> Calls:
    return calls(np.random.default_rng(seed).random(windows) < accuracy, **kwargs)


def contest(model: Calls, length: int = 4096, **controls: Calls) -> Contest:
    return Contest(length, model, controls)


WON = contest(share(0.9), kmers=share(0.6, seed=1), masking=share(0.5, seed=2))


def test_the_best_control_is_the_most_accurate() -> None:
    assert WON.best == "kmers"
    assert WON.gain == WON.model.gain_over(WON.controls["kmers"])
    assert WON.rival is None
    assert (WON.chance, WON.loci) == (0.5, 200)


def test_a_rival_need_not_be_the_best() -> None:
    """A control whose errors are other ones is compared less sharply than one that errs alike."""
    model = share(0.8)
    alike = calls(model.correct & (np.arange(400) % 40 > 0))
    other = share(0.77, seed=4)
    tried = contest(model, alike=alike, other=other)
    assert tried.best == "alike"
    assert tried.gain.low > 0
    assert tried.gains["other"].low <= 0 < tried.gains["other"].estimate
    assert tried.rival == "other"
    assert "not clearly better than other, so" in verdict([tried], "mamba")


def test_chance_is_the_most_frequent_class() -> None:
    uneven = Calls(
        SPECIES, np.full((10, 2), 0.5), np.array([0] * 7 + [1] * 3), np.arange(10, dtype=np.int64)
    )
    assert contest(uneven, same=uneven).chance == 0.7


def test_a_contest_needs_controls_on_the_same_windows() -> None:
    with pytest.raises(UsageError, match="give it a control"):
        contest(share(0.9))
    with pytest.raises(UsageError, match="on the same windows only"):
        rows([contest(share(0.9), kmers=share(0.9, windows=10))], "mamba")


def test_rows_and_their_tsv(tmp_path: Path) -> None:
    shorter = contest(share(0.6), 1024, kmers=share(0.5, seed=1), masking=share(0.5, seed=2))
    table = rows([shorter, WON], "mamba")
    assert [(row.context, row.name) for row in table] == [
        (length, name) for length in (1024, 4096) for name in ("mamba", "kmers", "masking")
    ]
    model, kmers = table[3:5]
    assert (model.accuracy, model.low, model.high) == WON.model.accuracy
    assert (kmers.gain, kmers.gain_low, kmers.gain_high) == WON.gain
    assert kmers.log_loss == WON.controls["kmers"].log_loss
    assert math.isnan(model.gain)

    write_contests(tmp_path / "results.tsv", table)
    with (tmp_path / "results.tsv").open() as handle:
        read = list(csv.DictReader(handle, delimiter="\t"))
    assert tuple(read[0]) == COLUMNS
    assert all(column == column.lower() for column in COLUMNS)
    assert read[3]["gain"] == read[3]["gain_low"] == read[3]["gain_high"] == ""
    assert (read[4]["windows"], read[4]["loci"]) == ("400", "200")
    assert float(read[4]["macro_f1"]) == pytest.approx(kmers.macro_f1, rel=1e-5)
    assert float(read[4]["gain_low"]) == pytest.approx(kmers.gain_low, rel=1e-5)


def test_a_verdict_on_a_model_that_won() -> None:
    gain, low, high = WON.gain
    says = verdict([WON], "mamba")
    assert says.startswith(
        f"mamba beats its best control, kmers: a gain of {percent(gain)} points at 4,096 bases "
        f"(95 % interval {percent(low)} to {percent(high)} over 200 loci), "
    )
    accuracy, low, high = WON.model.accuracy
    assert (
        f"{percent(accuracy)} % of 400 windows right ({percent(low)} to {percent(high)}) against "
        f"{percent(WON.controls['kmers'].accuracy.estimate)} %, 50.0 % by chance" in says
    )
    assert "rough" not in says
    assert "\n" not in says


def test_a_verdict_is_about_the_longest_context_of_one_window() -> None:
    tied = contest(share(0.6), 1024, kmers=share(0.6, seed=1))
    combined = dataclasses.replace(tied, length=2**16, combined=16)
    assert verdict([tied, WON, combined], "mamba") == verdict([WON], "mamba")
    assert own([tied, WON, combined]) is WON
    assert "at 1,024 bases" in verdict([tied], "mamba")


@pytest.mark.parametrize("accuracy", [0.7, 0.9])
def test_a_control_that_does_as_well_comes_first(accuracy: float) -> None:
    lost = contest(share(0.7), kmers=share(accuracy, seed=1), masking=share(0.5, seed=2))
    gain, low, high = lost.gain
    assert gain <= 0
    says = verdict([lost], "mamba")
    assert says.startswith(
        "mamba is no better than kmers, so it has not shown that it reads more than that: a gain "
        f"of {percent(gain)} points"
    )
    assert f"(95 % interval {percent(low)} to {percent(high)} over 200 loci)" in says


def test_equal_calls_are_a_tie() -> None:
    same = share(0.9)
    says = verdict([contest(same, kmers=same)], "mamba")
    assert "is no better than kmers" in says
    assert "a gain of 0.0 points" in says


def test_a_model_at_chance_is_said_to_be() -> None:
    """Controls below chance, which happens on other loci, are easily beaten."""
    model = share(0.53, seed=3)
    assert model.accuracy.low < 0.5 < model.accuracy.estimate
    says = verdict([contest(model, kmers=share(0.3, seed=1))], "mamba")
    assert says.startswith("mamba is no better than chance, so it has not shown that it reads any")
    assert "though it beats kmers: a gain of" in says


@pytest.mark.parametrize(("windows", "rough"), [(38, True), (40, False)])
def test_few_loci_are_said_to_be_few(windows: int, rough: bool) -> None:
    model, control = calls([True] * windows), calls([False, True] * (windows // 2))
    says = verdict([contest(model, kmers=control)], "mamba")
    assert "beats its best control" in says
    assert says.endswith("; 19 loci are few, so the intervals are rough") is rough


def test_one_locus_proves_nothing() -> None:
    model, control = calls([True] * 5, 5), calls([True, False] * 2 + [False], 5)
    says = verdict([contest(model, kmers=control)], "mamba")
    assert says.startswith("mamba is not clearly better than kmers")
    assert "100.0 % of 5 windows right against 40.0 %" in says
    assert "interval" not in says
    assert "nan" not in says
    assert says.endswith("one locus alone does not say how sure these figures are")


def test_percent_has_no_minus_zero() -> None:
    assert [percent(share) for share in (0.12345, -0.0001, -0.02, 1.0, math.nan)] == [
        "12.3",
        "0.0",
        "-2.0",
        "100.0",
        "-",
    ]


def test_calls_are_written_with_their_places(tmp_path: Path) -> None:
    model = calls([True, False, True])
    places = [Place(f"hg19_chr22:{i}", f"apes.fa chr{i}:1-8") for i in range(3)]
    write_calls(tmp_path / "calls.tsv", contest(model, kmers=model), places)
    with (tmp_path / "calls.tsv").open() as handle:
        read = list(csv.DictReader(handle, delimiter="\t"))
    assert read[1] == {
        "locus": "0",
        "place": "hg19_chr22:1",
        "region": "apes.fa chr1:1-8",
        "species": "gorilla",
        "called": "human",
        "confidence": "0.8",
        "right": "0",
        "p_human": "0.8",
        "p_gorilla": "0.2",
    }
    assert [row["right"] for row in read] == ["1", "0", "1"]
    assert [row["locus"] for row in read] == ["0", "0", "1"]
    with pytest.raises(UsageError, match="2 places for 3 windows"):
        write_calls(tmp_path / "calls.tsv", contest(model, kmers=model), places[:2])


def test_folds_are_pooled_in_order_and_share_no_locus() -> None:
    first, second = calls([True, False, True, True]), calls([False, True], 1, sure=0.6)
    far = Calls(first.classes, first.probabilities, first.labels, first.loci * 7 + 5)
    pooled = pool_folds([far, second, first])
    assert pooled.loci.tolist() == [0, 0, 1, 1, 2, 3, 4, 4, 5, 5]
    assert pooled.correct.tolist() == [1, 0, 1, 1, 0, 1, 1, 0, 1, 1]
    assert pooled.probabilities[4:6].max(1).tolist() == [0.6, 0.6]
    assert pooled.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0, 1]


def test_folds_of_other_classes_are_refused() -> None:
    one = calls([True])
    swapped = Calls(SPECIES[::-1], one.probabilities, one.labels, one.loci)
    for parts in ([one, swapped], []):
        with pytest.raises(UsageError, match="folds can be pooled"):
            pool_folds(parts)
