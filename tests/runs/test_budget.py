"""The plan of a hub-scale run, against published sizes and models that are really built."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from textreg.errors import InputError
from textreg.runs import budget, profiles, sizes

REPOSITORY = Path(__file__).parents[2]
LLM, TOWER = "BSC-LT/salamandra-2b-instruct", "google/siglip-so400m-patch14-384"


@pytest.fixture(scope="module")
def gpu():
    return profiles.load("gpu", REPOSITORY)


@pytest.fixture(scope="module")
def plan(gpu):
    return budget.estimate(gpu)


@pytest.mark.parametrize(("size", "published"), [("2b", 2_253_490_176), ("7b", 7_768_117_248)])
def test_parameters_counted_from_a_shape_are_the_published_number(size, published):
    assert sizes.find(f"BSC-LT/salamandra-{size}-instruct", "llm").parameters == published


def test_the_so400m_tower_has_729_image_tokens_and_its_known_work():
    tower = sizes.find(TOWER, "tower")
    assert tower.patches == 729
    assert tower.work == pytest.approx(0.67e12, rel=0.01)
    assert tower.feature_bytes == pytest.approx(1.68e6, rel=0.01)


@pytest.mark.parametrize("tied", [True, False])
def test_a_local_llm_is_counted_to_the_last_parameter(tmp_path, tied):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    assert sizes.find(str(tmp_path), "llm").parameters == sum(p.numel() for p in model.parameters())


def test_lora_parameters_are_counted_like_peft_makes_them(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = sizes.LanguageModel(2, 32, 48, 4, 2, 64, True)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
    )
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=5, target_modules="all-linear"))
    assert shape.adapter(5) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_a_local_tower_is_counted_to_the_last_parameter(tmp_path):
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=24,
        patch_size=6,
        vision_use_head=False,
    )
    model = SiglipVisionModel(config)
    model.save_pretrained(tmp_path)
    tower = sizes.find(str(tmp_path), "tower")
    assert tower.parameters == sum(p.numel() for p in model.parameters())
    assert tower.patches == 16


def test_work_of_a_row_agrees_with_the_published_table_for_a_7b_shape():
    # 729 image and 120 text tokens, no recomputation: 22.0 TFLOP in the blocks and 0.67 in the tower.
    llama = sizes.LanguageModel(32, 4096, 11008, 32, 32, 32000, False)
    tower = sizes.find(TOWER, "tower")
    work = sizes.train_work(llama, tower, rank=0, image=True, words=120, scored=60, checkpointing=False)
    assert work == pytest.approx(22.0e12 + 0.67e12, rel=0.05)


def test_the_small_profile_fits_24_gb_and_the_large_one_needs_80(plan):
    fits = {card.name: card.fits for card in plan.cards}
    assert all(fits.values())
    large = {card.name: card.fits for card in budget.estimate(profiles.load("gpu-7b", REPOSITORY)).cards}
    assert large["A100 80GB"] and not large["RTX 4090"]


def test_four_bit_weights_bring_the_large_profile_closer_to_24_gb():
    profile = profiles.load("gpu-7b", REPOSITORY)
    full = budget.estimate(profile).cards[0].memory
    small = budget.estimate(profile, ["precision=4bit"]).cards[0].memory
    assert small < full - 7e9


def test_arms_with_text_rows_take_less_work_than_the_base_model_at_equal_rows(plan):
    work = {item.unit: item for item in plan.work}
    assert work["tune[TR]"].rows == work["tune[BM]"].rows == 64000
    assert work["tune[TR]"].flop < work["tune[BM]"].flop
    assert work["tune[TR]"].flop == work["tune[EN]"].flop


def test_requests_are_images_times_languages_times_systems_and_arms(plan, gpu):
    asked = next(item for item in plan.work if item.unit == "evaluate").rows
    assert asked == 100 * 36 * (6 * 3 + 2 * 3)


def test_more_steps_are_more_hours_in_proportion(gpu, plan):
    longer = budget.estimate(gpu, ["tune.steps=1000"])
    hours = [next(card for card in p.cards if card.name == "RTX 4090").hours for p in (plan, longer)]
    assert hours[1]["tune[TR]"] == pytest.approx(2 * hours[0]["tune[TR]"])
    assert hours[1]["align"] == pytest.approx(hours[0]["align"])


def test_keeping_features_shows_its_disk(gpu, plan):
    kept = budget.estimate(gpu, ["cache_features=true"])
    names = [item.name for item in kept.disk]
    assert "features of the frozen tower" in names
    assert "features of the frozen tower" not in [item.name for item in plan.disk]
    size = next(item.size for item in kept.disk if item.name.startswith("features"))
    assert size == pytest.approx(164_000 * 1.68e6, rel=0.01)


def printed(plan):
    console = Console(width=200, record=True, file=io.StringIO())
    budget.show(plan, console)
    return console.export_text()


def test_the_printed_plan_names_every_download_and_states_its_assumptions(plan):
    text = printed(plan)
    for word in (LLM, TOWER, "floschne/xm3600", "35%", "729 image tokens", "RTX 4090"):
        assert word in text


def test_an_unknown_hub_model_gives_no_hours_and_says_so(gpu):
    plan = budget.estimate(gpu, ["align.llm=nobody/never-heard-of"])
    assert plan.unknown == ("nobody/never-heard-of: nothing is known of it here, give a local folder to count it",)
    assert plan.cards == ()


def test_a_tower_where_an_llm_belongs_is_refused(gpu):
    with pytest.raises(InputError, match="is a tower, a llm is needed"):
        budget.estimate(gpu, [f"align.llm={TOWER}"])


def test_a_row_length_below_the_image_tokens_is_refused_with_the_cure(gpu):
    with pytest.raises(
        InputError, match="max_length 512 leaves no room for words after 729 image tokens; raise it to 985"
    ):
        budget.estimate(gpu, ["tune.max_length=512"])


def test_a_scenes_profile_has_no_gpu_plan(gpu):
    with pytest.raises(InputError, match="only hub runs are planned"):
        budget.estimate(replace(gpu, scale="scenes"))


def configured(folder, **content):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder)


def test_a_published_config_that_leaves_out_its_defaults_is_counted(tmp_path):
    # As llava-1.5-7b-hf and siglip-base-patch16-224 publish theirs.
    words = {"model_type": "llama", "vocab_size": 32064}
    tower = {
        "model_type": "clip_vision_model",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 336,
        "patch_size": 14,
    }
    llava = configured(tmp_path / "llava", model_type="llava", text_config=words, vision_config=tower)
    assert sizes.find(llava, "llm") == sizes.LanguageModel(32, 4096, 11008, 32, 32, 32064, False)
    assert sizes.find(llava, "tower") == sizes.Tower(24, 1024, 4096, 336, 14)
    siglip = configured(tmp_path / "siglip", model_type="siglip", vision_config={"model_type": "siglip_vision_model"})
    assert sizes.find(siglip, "tower") == sizes.Tower(12, 768, 3072, 224, 16)
    with pytest.raises(InputError, match=r"siglip: siglip_text_model is no language model that answers"):
        sizes.find(siglip, "llm")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"hidden_size": 8}, "of no type known to transformers"),
        ({"model_type": "gpt2"}, "names no intermediate_size, which a llm is counted from"),
    ],
)
def test_a_model_that_cannot_be_counted_is_said_and_stops_neither_plan_nor_run(gpu, tmp_path, content, reason):
    name = configured(tmp_path / "odd", **content)
    plan = budget.estimate(gpu, [f"align.llm={name}"])
    assert len(plan.unknown) == 1 and reason in plan.unknown[0]
    assert plan.cards == () and plan.downloads and plan.disk
    text = printed(plan)
    assert f"no hours or memory: {name}" in text and "On disk: at least" in text


def test_a_published_vlm_is_planned_and_its_download_listed(gpu):
    # 7,063,427,072 is the published number of parameters; the plan leaves CLIP's class token and first norm out.
    plan = budget.estimate(gpu, ["align.vlm=llava-hf/llava-1.5-7b-hf"])
    assert plan.unknown == () and plan.downloads[0].size == 2 * 7_063_427_072
    assert plan.downloads[0].name == "llava-hf/llava-1.5-7b-hf"
    llm, tower = (sizes.find("llava-hf/llava-1.5-7b-hf", kind) for kind in ("llm", "tower"))
    assert llm.parameters + tower.parameters + sizes.projector(tower, llm) == 7_063_427_072 - 3 * 1024


def test_a_model_of_unknown_size_is_listed_and_makes_the_total_a_lower_bound(gpu, plan):
    unknown = budget.estimate(gpu, ["align.vlm=nobody/never-heard-of"])
    assert ("nobody/never-heard-of", 0) in [(item.name, item.size) for item in unknown.downloads]
    assert "Downloads: at least " in printed(unknown)
    assert "at least" not in printed(plan)


def test_the_file_of_glotlid_is_listed_where_it_is_the_identifier(gpu, plan):
    assert "cis-lmu/glotlid" in [item.name for item in plan.downloads]
    other = budget.estimate(gpu, ["evaluate.identifier=py3langid"])
    assert "cis-lmu/glotlid" not in [item.name for item in other.downloads]


def test_the_micro_batch_is_that_of_the_longest_rows_of_either_kind(gpu):
    # As the probe tries them: max_length tokens, of a text-only row nearly all in the loss, a tenth of the card free.
    llm, tower = sizes.find(LLM, "llm"), sizes.find(TOWER, "tower")
    card = budget.estimate(gpu).cards[0]
    for rows, fits in ((card.micro, True), (2 * card.micro, False)):
        peak = sizes.train_memory(
            llm,
            tower,
            rank=64,
            tokens=2048,
            scored=2048 * budget.ANSWERED,
            micro=rows,
            checkpointing=True,
            four_bit=False,
        )
        assert (peak <= 0.9 * card.capacity) == fits
        if fits:
            assert card.memory == pytest.approx(peak)


def test_every_worker_of_an_evaluation_needs_room_for_a_model_on_the_card(gpu):
    for name in ("gpu", "gpu-7b"):
        assert profiles.resolve(profiles.load(name, REPOSITORY), "evaluate").workers == 1
    memory = [budget.estimate(gpu, [f"evaluate.workers={n}", "tune.rank=1"]).cards[0].memory for n in (4, 8)]
    assert memory[1] == pytest.approx(2 * memory[0])


def test_the_plan_shows_the_memory_of_the_host_for_the_pictures_and_the_model(gpu, plan):
    pictures = next(item.size for item in plan.disk if "pictures" in item.name)
    merged = next(item.size for item in plan.disk if "merged" in item.name) / 2
    assert plan.host[0].size == pytest.approx(pictures + merged)
    two = budget.estimate(gpu, ["evaluate.workers=2"])
    assert two.host[0].size == pytest.approx(2 * (pictures + merged))
    assert f"Memory of the host: {plan.host[0].size / 1e9:.1f} GB" in printed(plan)
