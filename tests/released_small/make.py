"""Records the small parity case in this directory.

    python tests/released_small/make.py

Recorded at a commit where the outputs equaled those of the released code (tests/apps/convert/test_layout.py, which
needs the golden data). With it, a clone without that data notices changes of the released layout or its formulas.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from alitok.apps.convert.layout import discriminator_to_released, generator_to_released, tokenizer_to_released
from alitok.core.images import to_float
from alitok.generator import Generator, GeneratorConfig
from alitok.losses.adversarial import Discriminator, DiscriminatorConfig
from alitok.sampling import SampleRequest, SamplingConfig, oracle
from alitok.tokenizer import DecoderConfig, EncoderConfig, Tokenizer, TokenizerConfig

HERE = Path(__file__).parent
SMALL = {"width": 16, "layers": 1, "heads": 2}
TOKENIZER = TokenizerConfig(
    image_size=16,
    patch_size=4,
    prefix=5,  # the released layout: one more than the grid is wide
    codebook_size=24,
    code_width=8,
    encoder=EncoderConfig(**SMALL),
    stage1=DecoderConfig(**SMALL, causal=True, extra_tokens=1, prefix_head=True),
    stage2=DecoderConfig(**SMALL, extra_tokens=3),
)
GENERATOR = GeneratorConfig(grid=4, prefix=5, codebook_size=24, classes=6, layers=1, width=16, heads=2)


@torch.no_grad()
def main() -> None:
    """Record states and outputs."""
    torch.manual_seed(5)
    models = Tokenizer(TOKENIZER), Generator(GENERATOR), Discriminator(DiscriminatorConfig(width=32, stages=1))
    for model in models:
        for parameter in model.eval().parameters():
            parameter.normal_(std=0.2)
    tokenizer, generator, discriminator = models
    tokenizer.quantizer.usage.uniform_(0, 0.01)
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8)
    first, second = tokenizer(to_float(images), "stage1"), tokenizer(to_float(images), "stage2")
    classes = torch.tensor([2, 5])
    greedy = SamplingConfig(guidance_scale=6.0, guidance_power=0.7, temperature=0.0)
    expected = {
        "images_uint8": images,
        "encoder_output": first.features,
        "codes": first.codes,
        "quantizer_loss_mean": first.quantizer_loss,
        "stage1_reconstruction": first.images,
        "prefix_reconstruction": first.prefix_strip,
        "stage2_reconstruction": second.images,
        "class_ids": classes,
        "logits": generator(first.codes, classes),
        "greedy_ids": oracle.sample(generator, [SampleRequest(label, sampling=greedy) for label in (2, 5)]),
        "discriminator_logits": discriminator(to_float(images)),
    }
    states = {
        "stage1": tokenizer_to_released(tokenizer, "stage1"),
        "stage2": tokenizer_to_released(tokenizer, "stage2"),
        "generator": generator_to_released(generator),
        "discriminator": discriminator_to_released(discriminator),
    }
    for name, tensors in states.items():
        save(name, tensors)
    tokenizer.quantizer.cluster(tokenizer.quantizer.candidates(first.features))  # changes the codebook in place
    expected["cluster_embedding_after"] = tokenizer.quantizer.codebook
    expected["cluster_embed_prob_after"] = tokenizer.quantizer.usage
    save("expected", expected)


def save(name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Write one safetensors file beside this one."""
    save_file({key: value.detach().contiguous() for key, value in tensors.items()}, HERE / f"{name}.safetensors")


if __name__ == "__main__":
    main()
