"""Profiles: what is accepted, what is refused, and what the one line says."""

from pathlib import Path

import pytest

from textreg import settings as config
from textreg.errors import InputError
from textreg.runs import profiles, stages
from textreg.runs.identity import parameters

ROOT = Path(__file__).parents[2]
ARMS = [
    {"arm": "BM", "text": "none", "merge": True},
    {"arm": "TR", "merge": True},
    {"arm": "EN", "text": "english"},
    {"arm": "TR-mono", "text": "mono"},
]


def profile(**content):
    return profiles.parse({"name": "p", "arms": ARMS, **content}, Path("p.yaml"))


def test_every_profile_of_the_repository_is_valid_and_probes_no_more_images_than_it_keeps_for_validation():
    names = profiles.available(ROOT)
    assert {"smoke", "laptop"} <= set(names)
    for name in names:
        chosen = profiles.load(name, ROOT)
        assert chosen.name == name
        kept = profiles.resolve(chosen, "prepare_data").validation_images
        assert profiles.resolve(chosen, "mechanism").probe_images <= kept, name


def test_the_laptop_profile_computes_what_the_defaults_of_the_settings_classes_do():
    laptop = profiles.load("laptop", ROOT)
    for stage in ("prepare_data", "align", "evaluate", "figures"):
        assert parameters(profiles.resolve(laptop, stage)) == parameters(config.stage_classes()[stage]())


def test_an_override_is_stronger_than_the_arm_the_arm_than_the_section_the_section_than_the_default():
    tuned = profile(tune={"steps": 7, "rank": 4}, arms=[{"arm": "TR", "rank": 8}, {"arm": "BM"}], stages=["tune"])
    assert profiles.resolve(tuned, "tune", "BM").rank == 4
    assert profiles.resolve(tuned, "tune", "TR").rank == 8
    assert profiles.resolve(tuned, "tune", "TR", ("tune.rank=2",)).rank == 2
    assert profiles.resolve(tuned, "tune", "TR").alpha == config.Tune().alpha


def test_a_published_model_asks_for_no_data_to_align_on_in_whatever_profile():
    gpu, published = profiles.load("gpu", ROOT), ["align.vlm=some/vlm", "align.steps=0"]
    assert profiles.resolve(gpu, "prepare_data").align_rows == 100_000
    assert profiles.resolve(gpu, "prepare_data", overrides=published).align_rows == 0
    assert profiles.resolve(profiles.load("cure", ROOT), "prepare_data").align_rows == 0


def test_the_cure_asks_hundreds_of_english_questions_and_compares_every_lambda_with_the_published_model():
    cure = profiles.load("cure", ROOT)
    data, merge = profiles.resolve(cure, "prepare_data"), profiles.resolve(cure, "merge", "TR")
    assert data.visual_check and min(data.validation_questions, data.test_questions) >= 500
    assert {0.0, 1.0} < set(merge.lambdas)


def test_a_server_answers_at_hub_scale_and_for_the_systems_alone():
    cure, endpoint = profiles.load("cure", ROOT), "evaluate.endpoint=http://localhost:8000/v1"
    profiles.check(cure, [endpoint])
    for chosen, more in ((cure, ["evaluate.frontier_lambdas=0.5"]), (profile(scale="scenes", seed=0), [])):
        with pytest.raises(InputError, match="a server at endpoint answers at hub scale, for the systems"):
            profiles.check(chosen, [endpoint, *more])


def test_an_override_of_one_stage_or_arm_leaves_the_others_alone():
    chain = profile()
    assert profiles.resolve(chain, "align", overrides=("tune.steps=5",)).steps == config.Align().steps
    assert profiles.resolve(chain, "tune", "BM", ("TR.text_share=0.5",)).text_share == config.Tune().text_share
    assert profiles.resolve(chain, "tune", "TR", ("TR.text_share=0.5",)).text_share == 0.5
    assert profiles.resolve(chain, "align", overrides=("steps=5",)).steps == 5


def test_a_run_holds_one_tune_per_arm_and_a_merge_only_where_the_arm_asks_for_it():
    names = [unit.name for unit in profile().units]
    assert names[:5] == ["prepare_data", "align", "tune[BM]", "tune[TR]", "tune[EN]"]
    assert [name for name in names if name.startswith("merge")] == ["merge[BM]", "merge[TR]"]
    assert "backbone" not in names


def test_evaluation_waits_for_the_systems_it_names_and_no_others():
    chain = profile(evaluate={"systems": ["backbone", "BM", "TR+M"]})
    names = [unit.name for unit in profiles.upstream(chain, stages.Unit("evaluate"))]
    assert names == ["prepare_data", "align", "tune[BM]", "tune[TR]", "merge[TR]"]


HUB = {
    "scale": "hub",
    "prepare_data": {"languages": ["en", "de"], "text_languages": ["de"], "held_out": []},
    "evaluate": {"systems": ["BM", "TR"]},
}
REFUSED = {
    "unknown key": ({"seeds": 1}, "unknown key 'seeds' (did you mean 'seed'?)"),
    "unknown parameter": ({"tune": {"step": 3}}, "unknown parameter 'step' (did you mean 'steps'?)"),
    "word for a whole number": ({"tune": {"steps": "50"}}, "steps = '50'"),
    "true for a whole number": ({"tune": {"steps": True}}, "steps = True"),
    "share over one": ({"tune": {"text_share": 1.5}}, "text_share = 1.5"),
    "share not a number": ({"tune": {"text_share": float("nan")}}, "text_share = nan"),
    "unknown choice": ({"tune": {"precision": "fp8"}}, "precision = 'fp8'"),
    "lambda over one": ({"merge": {"lambdas": [0.5, 2]}}, "lambdas[1] = 2"),
    "lambda twice": ({"merge": {"lambdas": [0.5, 1.0, 0.5]}}, "lambdas names 0.5 twice"),
    "no lambda": ({"merge": {"lambdas": []}}, "lambdas = []"),
    "no number among lambdas": ({"merge": {"lambdas": ["1e-1x", 1.0]}}, "lambdas[0] = '1e-1x'"),
    "no arm of requests": ({"evaluate": {"arms": []}}, "arms = []"),
    "a row too short for an image": ({"tune": {"max_length": 8}}, "max_length = 8"),
    "a seed that no generator takes": ({"seed": 2**32}, "seed = 4294967296"),
    "a seed of thousands of digits": ({"seed": 10**5000}, "seed = a number of thousands of digits"),
    "zero for a section": ({"tune": 0}, "tune is a mapping of parameters, not 0"),
    "endless parameter": ({"tune": {"x" * 100_000: 1}}, "unknown parameter 'xxx"),
    "one word for a list": ({"prepare_data": {"languages": "en"}}, "languages = 'en'"),
    "yaml's norwegian": ({"prepare_data": {"languages": ["en", False]}}, "languages[1] = False"),
    "unknown language": ({"prepare_data": {"languages": ["en", "xx"]}}, "unknown language 'xx'"),
    "no english": ({"prepare_data": {"languages": ["de"]}}, "prepare_data: languages lack en; seeing is measured"),
    "no lambda one": ({"merge": {"lambdas": [0.5]}}, "merge[BM]: lambdas lack 1.0, the tuned model"),
    "judge without address": ({"evaluate": {"judge": "llm", "judge_model": "m"}}, "judge = llm needs judge_endpoint"),
    "judge without model": ({"evaluate": {"judge": "llm", "judge_endpoint": "u"}}, "judge = llm needs judge_model"),
    "text without share": ({"tune": {"text_share": 0.0}}, "tune[TR]: text = multilingual with text_share 0"),
    "rows that the hub scale has not": (HUB | {"tune": {"text": "mono"}}, "hub scale makes no such rows"),
    "rows that pictures have not": (
        HUB | {"scale": "pictures", "tune": {"text": "lists"}},
        "pictures scale makes no such",
    ),
    "own answers behind a picture": (
        {"tune": {"text_answers": "own", "text_image": "blank"}},
        "text_answers = own answers rows without an image",
    ),
    "uneven micro-batch": ({"align": {"micro_batch": 5, "batch_size": 16}}, "align: batch_size 16 is no multiple of"),
    "held out and in the text": (
        {"prepare_data": {"held_out": ["sv"], "text_languages": ["sv"]}},
        "sv is in held_out and in text_languages",
    ),
    "unknown scale": ({"scale": "huge"}, "scale = 'huge'"),
    "stages no list": ({"stages": "tune"}, "stages is a list"),
    "unknown stage": ({"stages": ["tune", "mergee"]}, "unknown stage 'mergee' (did you mean 'merge'?)"),
    "arms no list": ({"arms": {"arm": "TR"}}, "arms is a list"),
    "arm without a name": ({"arms": [{"text": "none"}]}, "arm = None"),
    "arm that is a path": ({"arms": [{"arm": "../TR"}]}, "arm = '../TR'"),
    "arm that looks merged": ({"arms": [{"arm": "TR+M"}]}, "arm = 'TR+M'"),
    "arm named as the reference": ({"arms": [{"arm": "backbone"}]}, "not 'backbone'"),
    "arm twice": ({"arms": [{"arm": "TR"}, {"arm": "tr"}]}, "'tr' is there twice"),
    "unknown key of an arm": (
        {"arms": [{"arm": "TR", "txt": "none"}]},
        "unknown parameter 'txt' (did you mean 'text'?)",
    ),
    "merge neither true nor false": ({"arms": [{"arm": "TR", "merge": "yes"}]}, "merge is true or false"),
    "run set by a section": ({"tune": {"run": "/tmp/x"}}, "run is set by the run itself"),
    "evaluated arm not trained": ({"evaluate": {"systems": ["BM", "TT"]}}, "names arm 'TT'"),
    "evaluated merge not made": ({"evaluate": {"systems": ["EN+M"]}}, "give the arm 'merge: true'"),
    "mechanism of an unknown arm": ({"mechanism": {"arms": ["XY"]}}, "mechanism.arms names arm 'XY'"),
    "name that is a path": ({"name": "a/b"}, "name = 'a/b'"),
    "query in an address": (
        {"evaluate": {"judge_endpoint": "https://host/v1?key=x"}},
        "judge_endpoint looks like a credential",
    ),
    "credential in a setting": (
        {"evaluate": {"judge_endpoint": "https://user:pass@host/v1"}},
        "judge_endpoint looks like a credential",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_profile_is_refused_in_one_line_that_names_the_spot(case):
    content, expected = REFUSED[case]
    with pytest.raises(InputError) as caught:
        profile(**content)
    message = str(caught.value)
    assert expected in message
    assert message.startswith(("p.yaml", "evaluate.systems", "mechanism.arms"))
    assert "\n" not in message and len(message) < 400


OVERRIDES = {
    "seeds=1": "unknown parameter 'seeds' (did you mean 'seed'?)",
    "tuen.steps=1": "'tuen' is no stage and no arm (did you mean 'tune'?)",
    "tune.steps=fifty": "steps = 'fifty'",
    "text_share=2": "text_share = '2'",
    "tune.learning_rate=inf": "learning_rate = inf: a finite number is needed",
    "evaluate.frontier_lambdas=0.5,0.50": "frontier_lambdas names 0.5 twice",
    "languages=": "languages = []",
    ".steps=1": "expected key=value",
    f"{'x' * 100_000}=1": "unknown parameter 'xxx",
    "judge_model=my-abcdefgh12345678": "looks like a credential",
    "jugde_model=abcdefgh12345678": "looks like a credential",
    "steps": "expected key=value",
    "run=elsewhere": "run cannot be overridden",
    "tune.lambdas=0.5": "unknown parameter 'lambdas'",
    "evaluate.systems=BM,XX": "names arm 'XX'",
    "judge_model=hf_abcdefghijklmnopqrstuv": "looks like a credential",
}


@pytest.mark.parametrize("text", OVERRIDES)
def test_a_wrong_override_is_refused_before_anything_starts(text, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "abcdefgh12345678")
    with pytest.raises(InputError) as caught:
        profiles.check(profile(), (text,))
    assert OVERRIDES[text] in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("hf_abc", "abcdefgh12345678"))
    assert len(str(caught.value)) < 400


def test_the_value_of_a_secret_variable_is_refused_in_a_profile_too(monkeypatch):
    monkeypatch.setenv("SERVICE_DSN", "postgres-abcdefgh")
    with pytest.raises(InputError, match="judge_model holds the value of a secret") as caught:
        profile(evaluate={"judge_model": "postgres-abcdefgh"})
    assert "abcdefgh" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "stage", "expected"),
    [
        ("tune.learning_rate=1e-4", "tune", 1e-4),
        ("tune.cache_features=true", "tune", True),
        ("tune.steps=50", "tune", 50),
        ("prepare_data.languages=en, de", "prepare_data", ["en", "de"]),
        ('prepare_data.languages=["en", "de"]', "prepare_data", ["en", "de"]),
        ("merge.lambdas=[0.5,1]", "merge", [0.5, 1.0]),
        ("evaluate.judge_model=7", "evaluate", "7"),
    ],
)
def test_an_override_is_read_as_the_type_of_its_field(text, stage, expected):
    arm = "TR" if stage in stages.PER_ARM else None
    settings = profiles.resolve(profile(), stage, arm, (text,))
    value = getattr(settings, text.partition("=")[0].split(".")[1])
    assert value == expected
    assert type(value) is type(expected)


def test_a_notebook_collects_its_settings_and_refuses_a_cell_that_leaves_one_out():
    cell = dict(vars(config.Figures()))
    assert config.collect(config.Figures, {**cell, "other": 1}) == config.Figures()
    del cell["results"]
    with pytest.raises(InputError, match="does not assign results"):
        config.collect(config.Figures, cell)
