from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from synboot.core.config import (
    Config,
    environment_settings,
    merge,
    parse_settings,
    read_recipe,
    validate,
)
from synboot.core.errors import BadInput


class Pairs(Config):
    min_similarity: float = Field(default=0.3, ge=0, le=1)
    top_k: int = 20


class Synthesize(Config):
    pairs: Pairs = Pairs()
    temperature: float = 1.0


class Toy(Config):
    name: str = "toy"
    seed: int = 0
    device: Literal["auto", "cpu"] = "auto"
    pairs: Pairs = Pairs()
    synthesize: Synthesize = Synthesize()
    seeds: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _not_thirteen(self) -> Toy:
        if self.seed == 13:
            raise ValueError("seed: thirteen brings bad luck")
        return self


def load(path: Path, settings: list[str], environment: dict[str, str]) -> Toy:
    """As `synboot.experiment.recipe.load_recipe` does it."""
    values = merge(read_recipe(path), environment_settings(Toy, environment))
    return validate(Toy, merge(values, parse_settings(settings)), str(path))


def refused(values: Any) -> str:
    with pytest.raises(BadInput) as error:
        validate(Toy, values, "toy.yaml")
    assert error.value.exit_code == 2
    return str(error.value)


class TestReadRecipe:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "below").mkdir()
        return tmp_path

    def write(self, path: Path, text: str) -> Path:
        path.write_text(text, encoding="utf-8")
        return path

    def test_bases_lie_under_each_other(self, folder: Path) -> None:
        self.write(folder / "below" / "ground.yaml", "{a: 1, b: {x: 1, y: 1, z: 1}, c: [1, 2]}")
        self.write(folder / "below" / "middle.yaml", "{base: ground.yaml, a: 2, b: {y: 2, z: 2}}")
        top = self.write(folder / "top.yaml", "{base: below/middle.yaml, b: {z: 3}, c: [3], d: ü}")
        assert read_recipe(top) == {"a": 2, "b": {"x": 1, "y": 2, "z": 3}, "c": [3], "d": "ü"}

    def test_a_circle_of_bases(self, folder: Path) -> None:
        a = self.write(folder / "a.yaml", "base: below/b.yaml")
        self.write(folder / "below" / "b.yaml", "base: ../c.yaml")
        self.write(folder / "c.yaml", "base: a.yaml")
        with pytest.raises(BadInput, match=r"field base: .* in a circle"):
            read_recipe(a)
        with pytest.raises(BadInput, match="circle"):
            read_recipe(self.write(folder / "self.yaml", "base: ./self.yaml"))

    def test_one_base_of_two_is_no_circle(self, folder: Path) -> None:
        self.write(folder / "ground.yaml", "a: 1")
        self.write(folder / "middle.yaml", "base: ground.yaml")
        top = self.write(folder / "top.yaml", "base: middle.yaml")
        assert read_recipe(top) == read_recipe(top) == {"a": 1}

    @pytest.mark.parametrize(
        ("text", "line", "problem"),
        [
            ("a: 1\nb: [1, 2\nc: 3\n", 3, "expected ',' or ']'"),
            ("a: 1\n  b: 2\n", 2, "mapping values are not allowed"),
            ("a: 1\nb:\n\t- 2\n", 3, "cannot start any token"),
            ("a: !!python/object/apply:os.getcwd []\n", 1, "could not determine a constructor"),
            ("a: 1\nb: {c: 1,\n  d: 2, c: 3}\n", 3, "the key 'c' stands here for the second time"),
            ("pairs: {}\nseed: 1\npairs: {}\n", 3, "the key 'pairs' stands here for the second"),
            ("a: 1\nday: 2024-13-45\n", 2, "month must be in 1..12"),
            ("a: 0x_\n", 1, "invalid literal"),
            ("a: *nowhere\n", 1, "undefined alias"),
        ],
    )
    def test_broken_yaml_by_file_and_line(
        self, folder: Path, text: str, line: int, problem: str
    ) -> None:
        path = self.write(folder / "broken.yaml", text)
        with pytest.raises(BadInput) as error:
            read_recipe(path)
        assert str(error.value).startswith(f"{path}, line {line}: ")
        assert problem in str(error.value)

    @pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- a\n", "list"), ("a", "str")])
    def test_anything_but_a_mapping(self, folder: Path, text: str, kind: str) -> None:
        path = self.write(folder / "a.yaml", text)
        with pytest.raises(BadInput, match=f"a.yaml: expected a YAML mapping, got {kind}"):
            read_recipe(path)

    def test_what_cannot_be_read(self, folder: Path) -> None:
        latin = folder / "latin.yaml"
        latin.write_bytes(b"a: \xff\n")
        for path in (folder / "none.yaml", folder / "below", latin):
            with pytest.raises(BadInput, match=f"{path.name}: cannot read the recipe"):
                read_recipe(path)
        top = self.write(folder / "top.yaml", "base: nowhere.yaml")
        with pytest.raises(BadInput, match=r"nowhere\.yaml: cannot read the recipe"):
            read_recipe(top)
        with pytest.raises(BadInput, match=r"field base: expected the path .* got \['a'\]"):
            read_recipe(self.write(folder / "list.yaml", "base: [a]"))

    def test_an_anchor_may_be_merged_and_overridden(self, folder: Path) -> None:
        text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n"
        values = read_recipe(self.write(folder / "a.yaml", text))
        assert values["b"] == {"x": 1, "y": 3}


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "value"),
        [("1e-3", 1e-3), ("5E+2", 500.0), ("-2.5e3", -2500.0), (".5e1", 5.0), ("1.e2", 100.0)],
    )
    def test_scientific_ones_in_recipes_and_settings(
        self, tmp_path: Path, text: str, value: float
    ) -> None:
        (tmp_path / "a.yaml").write_text(f"a: {text}\nb: [{text}]\n")
        assert read_recipe(tmp_path / "a.yaml") == {"a": value, "b": [value]}
        assert parse_settings([f"a.b={text}"]) == {"a": {"b": value}}
        assert environment_settings(Toy, {"SYNBOOT_PAIRS__TOP_K": text}) == {
            "pairs": {"top_k": value}
        }

    def test_text_stays_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("{a: '1e3', b: 1e, c: e5, d: 1e3f, e: v1e3}")
        assert read_recipe(tmp_path / "a.yaml") == {
            "a": "1e3",
            "b": "1e",
            "c": "e5",
            "d": "1e3f",
            "e": "v1e3",
        }
        (tmp_path / "a.yaml").write_text("name: '1e3'")
        assert load(tmp_path / "a.yaml", [], {}).name == "1e3"

    def test_a_whole_one_can_be_an_integer(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("seed: 1e6")
        assert load(tmp_path / "a.yaml", [], {}).seed == 1_000_000


class TestMerge:
    def test_mappings_merge_and_all_else_is_replaced(self) -> None:
        below = {"a": {"x": 1, "y": {"z": 1}}, "b": [1, 2], "c": {"x": 1}, "d": 1}
        above = {"a": {"y": {"w": 2}}, "b": [3], "c": None, "d": {"x": 1}}
        merged = {"a": {"x": 1, "y": {"z": 1, "w": 2}}, "b": [3], "c": None, "d": {"x": 1}}
        assert merge(below, above) == merged

    _values = st.recursive(
        st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner), max_leaves=8
    )
    _mappings = st.dictionaries(st.sampled_from("abc"), _values)

    @settings(deadline=None)
    @given(_mappings, _mappings, _mappings)
    def test_neither_side_changes_and_layers_add_up(self, a: Any, b: Any, c: Any) -> None:
        before = repr((a, b, c))
        merged = merge(merge(a, b), c)
        assert repr((a, b, c)) == before
        assert merge(merged, c) == merged
        assert merge({}, a) == a == merge(a, {})


class TestPrecedence:
    def test_set_over_environment_over_recipe_over_base_over_default(self, tmp_path: Path) -> None:
        (tmp_path / "base.yaml").write_text("pairs: {min_similarity: 0.1, top_k: 1}\nseed: 1")
        path = tmp_path / "toy.yaml"
        path.write_text("base: base.yaml\npairs: {min_similarity: 0.2}")
        environment: dict[str, str] = {}
        settings: list[str] = []
        assert validate(Toy, {}, "").pairs == Pairs(min_similarity=0.3, top_k=20)
        base = load(tmp_path / "base.yaml", settings, environment)
        assert base.pairs == Pairs(min_similarity=0.1, top_k=1)
        assert load(path, settings, environment).pairs == Pairs(min_similarity=0.2, top_k=1)
        environment["SYNBOOT_PAIRS__MIN_SIMILARITY"] = "0.4"
        assert load(path, settings, environment).pairs == Pairs(min_similarity=0.4, top_k=1)
        settings.append("pairs.min_similarity=0.5")
        assert load(path, settings, environment).pairs == Pairs(min_similarity=0.5, top_k=1)
        settings.append("pairs.min_similarity=0.6")
        recipe = load(path, settings, environment)
        assert recipe.pairs == Pairs(min_similarity=0.6, top_k=1)
        assert recipe.seed == 1

    def test_environment_names(self) -> None:
        found = environment_settings(
            Toy,
            {
                "SYNBOOT_SEED": "7",
                "SYNBOOT_SYNTHESIZE__PAIRS__TOP_K": "3",
                "SYNBOOT_SYNTHESIZE__TEMPERATURE": "0.5",
                "SYNBOOT_DATA": "/elsewhere",
                "MY_SYNBOOT_SEED": "8",
                "SEED": "9",
            },
        )
        assert found == {"seed": 7, "synthesize": {"pairs": {"top_k": 3}, "temperature": 0.5}}

    def test_the_real_environment_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SYNBOOT_SEED", "42")
        assert environment_settings(Toy)["seed"] == 42

    def test_a_misspelt_variable_is_an_error(self) -> None:
        values = environment_settings(Toy, {"SYNBOOT_PAIRS__MIN_SIMILARTY": "0.4"})
        assert "did you mean min_similarity?" in refused(values)


class TestSettings:
    @pytest.mark.parametrize(
        ("setting", "values"),
        [
            ("seed=3", {"seed": 3}),
            ("a.b.c=true", {"a": {"b": {"c": True}}}),
            ("a.b=", {"a": {"b": None}}),
            ("a.b=x=y", {"a": {"b": "x=y"}}),
            ("a.b=[1, two]", {"a": {"b": [1, "two"]}}),
            ("a={b: 1}", {"a": {"b": 1}}),
            (
                "corpus.path=/data/#1 of C:\\x.jsonl",
                {"corpus": {"path": "/data/#1 of C:\\x.jsonl"}},
            ),
        ],
    )
    def test_values_are_yaml(self, setting: str, values: dict[str, Any]) -> None:
        assert parse_settings([setting]) == values

    def test_later_ones_win_and_sections_merge(self) -> None:
        assert parse_settings(["a.b=1", "a.c=2", "a.b=3"]) == {"a": {"b": 3, "c": 2}}
        assert parse_settings([]) == {}

    @pytest.mark.parametrize("setting", ["seed", "", "=3", "a..b=1", ".a=1", "a.=1"])
    def test_what_is_no_setting(self, setting: str) -> None:
        with pytest.raises(BadInput, match=r"expected section\.field=value"):
            parse_settings([setting])

    @pytest.mark.parametrize("text", ["[1, 2", "{a: 1", "@x", "2024-13-45", "{a: 1, a: 2}"])
    def test_what_is_no_value(self, text: str) -> None:
        with pytest.raises(BadInput, match=r"--set a\.b=.* is no YAML value"):
            parse_settings([f"a.b={text}"])
        with pytest.raises(BadInput, match=r"SYNBOOT_PAIRS__TOP_K: .* is no YAML value"):
            environment_settings(Toy, {"SYNBOOT_PAIRS__TOP_K": text})


class TestValidate:
    def test_a_misspelt_key_names_the_right_one(self) -> None:
        assert refused({"sed": 1}) == "toy.yaml: field sed: unknown key; did you mean seed?"
        assert refused({"pairs": {"min_similarty": 0.5}}) == (
            "toy.yaml: field pairs.min_similarty: unknown key; did you mean min_similarity?"
        )
        assert refused({"synthesize": {"pairs": {"topk": 5}}}) == (
            "toy.yaml: field synthesize.pairs.topk: unknown key; did you mean top_k?"
        )

    def test_a_strange_key_names_the_known_ones(self) -> None:
        assert refused({"pairs": {"xyz": 1}}) == (
            "toy.yaml: field pairs.xyz: unknown key; known keys: min_similarity, top_k"
        )

    @pytest.mark.parametrize(
        ("values", "field", "got"),
        [
            ({"seed": "many"}, "seed", "'many'"),
            ({"seed": 1.5}, "seed", "1.5"),
            ({"name": 7}, "name", "7"),
            ({"device": "tpu"}, "device", "'tpu'"),
            ({"pairs": None}, "pairs", "None"),
            ({"pairs": [1]}, "pairs", "[1]"),
            ({"pairs": {"min_similarity": 1.5}}, "pairs.min_similarity", "1.5"),
            ({"pairs": {"min_similarity": float("nan")}}, "pairs.min_similarity", "nan"),
            ({"synthesize": {"temperature": float("inf")}}, "synthesize.temperature", "inf"),
            ({"seeds": [0, "x"]}, "seeds.1", "'x'"),
        ],
    )
    def test_a_wrong_value_names_field_and_value(
        self, values: dict[str, Any], field: str, got: str
    ) -> None:
        message = refused(values)
        assert message.startswith(f"toy.yaml: field {field}: ")
        assert message.endswith(f", got {got}")
        assert "should be" in message or "finite" in message

    def test_every_fault_is_named_once(self) -> None:
        message = refused({"sed": 1, "seed": "x", "pairs": {"top_k": None}})
        assert message.count("toy.yaml: field") == 3

    def test_rules_over_several_fields(self) -> None:
        assert "seed: thirteen brings bad luck" in refused({"seed": 13})

    def test_a_value_that_holds_itself(self) -> None:
        values = yaml.safe_load("pairs: &p {top_k: *p}")
        assert "field pairs.top_k" in refused(values)

    def test_keys_that_are_no_text(self) -> None:
        assert "toy.yaml: field 1" in refused({1: 2})

    def test_a_config_is_frozen(self) -> None:
        config = validate(Toy, {"seeds": [1, 2]}, "")
        assert config.seeds == (1, 2)
        with pytest.raises(ValidationError):
            config.seed = 3
