import pytest
import torch

from alitok.generator import Generator, GeneratorConfig


def small_generator(**changes):
    sizes = {"grid": 3, "prefix": 3, "codebook_size": 20, "classes": 5, "layers": 2, "width": 16, "heads": 2}
    model = Generator(GeneratorConfig(**{**sizes, **changes})).eval()
    for parameter in model.parameters():  # the logits layer starts at zero, which would hide everything
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@torch.no_grad()
def test_a_code_changes_no_logits_before_it_and_some_at_every_place_behind_it():
    model = small_generator()
    codes, classes = torch.randint(20, (2, 12)), torch.tensor([0, 4])
    base = model(codes, classes)
    assert base.shape == (2, 13, 20)
    for position in range(12):
        disturbed = codes.clone()
        disturbed[:, position] = (disturbed[:, position] + 1) % 20
        changed = (model(disturbed, classes) != base).any(-1)
        assert not changed[:, : position + 1].any()
        assert changed[:, position + 1 :].all()


def test_table_holds_codes_one_unused_row_classes_and_none():
    model = small_generator()
    assert model.embeddings.num_embeddings == 20 + 1 + 5 + 1
    assert model.class_tokens(torch.tensor([0, 4, model.null_class])).tolist() == [21, 25, 26]


def test_fresh_model_predicts_all_codes_alike():
    model = Generator(GeneratorConfig(grid=2, prefix=0, codebook_size=8, classes=2, layers=1, width=8, heads=2))
    assert (model(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([0])) == 0).all()


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model = small_generator()
    model.class_names = ("a", "b", "c", "d", "e")
    model.save_pretrained(tmp_path / "g")
    loaded = Generator.from_pretrained(tmp_path / "g")
    codes, classes = torch.randint(20, (2, 7)), torch.tensor([1, 2])
    assert torch.equal(loaded(codes, classes), model(codes, classes))
    assert loaded.class_names == model.class_names
    assert not loaded.training


def test_head_size_must_allow_2d_rotation():
    with pytest.raises(ValueError, match="width 18 / heads 3"):
        GeneratorConfig(width=18, heads=3)
