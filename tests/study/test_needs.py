"""A strategy whose needs its recipe and the backbone do not offer is refused when the configuration is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lplgrad import acquisition, backbones
from lplgrad.acquisition import Acquisition, Dropout
from lplgrad.study.reading import read_study
from tests.study.configurations import problem, write


class TestNeeds:
    """What a strategy needs, its recipe and the backbone offer, or the configuration is refused."""

    def refused(self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **needs: Any) -> str:
        made_up = Acquisition(lambda candidates, options: candidates["logits"], needs=lambda options: needs)
        load = acquisition.registry.load
        monkeypatch.setattr(
            acquisition.registry, "load", lambda name: made_up if name == "entropy" else load(name), raising=True
        )
        over = {"strategies": {"random": {"acquisition": "entropy"}}}
        return problem(base, write(tmp_path, "over.yaml", over))

    def test_a_need_that_a_recipe_does_not_offer_names_those_that_do(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = self.refused(base, tmp_path, monkeypatch, **{"labeled:predicted_loss": None})
        assert "strategies.random: on data set 'digits': acquisition 'entropy' needs labeled:predicted_loss, " in told
        assert "which recipe 'plain' (trains: plain) does not offer" in told
        assert "with trains: joint it does" in told

    @pytest.mark.parametrize("recipe", ["nce_net", "ensemble"])
    def test_a_function_of_a_linear_head_refuses_another_head(self, base: Path, tmp_path: Path, recipe: str) -> None:
        over = {
            "recipes": {"other": {"trains": recipe}},
            "strategies": {"random": {"recipe": "other", "acquisition": "badge"}},
        }
        told = problem(base, write(tmp_path, "over.yaml", over))
        assert (
            "strategies.random: on data set 'digits': acquisition 'badge' needs linear_head, which recipe 'other' "
            f"(trains: {recipe}) does not offer; with trains: joint or " in told
        )
        known, others = told.split("with trains: ")[1].removesuffix(" it does").split(" or "), {"nce_net", "ensemble"}
        assert {"plain", "mc_dropout", "waal"} < set(known)
        assert not others & set(known)

    def test_a_need_that_a_backbone_does_not_offer(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told = self.refused(base, tmp_path, monkeypatch, stochastic_logits=Dropout(5))
        assert "strategies.random: on data set 'digits': acquisition 'entropy' needs stochastic_logits" in told
        assert "with trains: mc_dropout it does" in told
        told = self.refused(base, tmp_path, monkeypatch, tea=None)
        assert "with the options of this backbone no recipe does" in told
        self.refused(base, tmp_path, monkeypatch, stochastic_logits=Dropout(5))
        dropout = {"datasets": {"digits": {"backbone": {"name": "resnet18", "dropout": 0.5}}}}
        over = {"strategies": {"random": {"acquisition": "entropy"}}}
        study = read_study([base, write(tmp_path, "dropout.yaml", {**dropout, **over})])
        assert study.strategies["random"].needs == {"stochastic_logits": Dropout(5)}

    def test_a_backbone_without_what_a_recipe_wants(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bare = replace(backbones.registry.load("resnet18"), offers=lambda options: frozenset())
        monkeypatch.setattr(backbones.registry, "load", lambda name: bare)
        told = problem(base)
        assert (
            "strategies.lplgrad: on data set 'digits': recipe 'joint' needs stages, which backbone 'resnet18' does not "
            "offer" in told
        )

    def test_a_strategy_that_does_not_run_is_not_checked(self, base: Path, tmp_path: Path) -> None:
        over = {"run": {"strategies": ["lplgrad"]}, "strategies": {"random": {"acquisition": "predicted_loss"}}}
        read_study([base, write(tmp_path, "over.yaml", over)])


def test_an_option_that_helps_is_named(tmp_path: Path, base: Path) -> None:
    overlay = {
        "recipes": {"dropout": {"trains": "mc_dropout"}},
        "strategies": {"bald": {"recipe": "dropout", "acquisition": "bald"}},
        "run": {"strategies": ["bald", "random"]},
    }
    words = (
        "needs member_logits, which recipe 'dropout' (trains: mc_dropout) does not offer; with trains: ensemble it does"
    )
    assert f"{words}, and with samples: dropout it is not needed" in problem(base, write(tmp_path, "one.yaml", overlay))
