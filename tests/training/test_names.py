import torch

from textreg.settings import Align
from textreg.training.names import fit
from textreg.vlm.features import open_features


def test_fitting_draws_what_is_said_of_a_picture_to_the_words_under_it(tiny_vlm, tiny_images, tiny_rows):
    model, processor = tiny_vlm
    seen = open_features(model, processor, tiny_images)
    rows = tiny_rows.drop_duplicates("image_id").reset_index(drop=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = fit(model, processor, rows, seen, Align(name_steps=1))
    last = fit(model, processor, rows, seen, Align(name_steps=200))
    assert last < first / 2
    with torch.no_grad():
        words = model.get_input_embeddings().weight
        image = rows["image_id"].dropna().iloc[0]
        said = model.model.multi_modal_projector(seen.fetch([image])["image_features"])[0]
        answer = rows.set_index("image_id").loc[image, "messages"][-1]["content"]
    ids = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    nearest = torch.nn.functional.cosine_similarity(said[0], words, dim=-1).argmax()
    assert int(nearest) == ids[0]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert all("multi_modal_projector" in name for name in changed)
