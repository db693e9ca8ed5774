"""What the user asked for, over what the run holds already, over a preset: the recipe, data and seed of a run.

Enters: options as the command line takes them. Leaves: `Resolved`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from alitok.core.config import from_dict, merge, override, read_toml, to_dict
from alitok.core.console import Reporter
from alitok.core.device import DeviceName, choose_device
from alitok.core.errors import AlitokError
from alitok.data.survey import Preview, preview
from alitok.recipes.fitted import FITTED, fitted
from alitok.recipes.presets import RECIPE_CLASSES, RECIPES, Recipe, with_generator
from alitok.run.stores import Stores, open_stores
from alitok.train.tokenizer import TokenizerPhase, TokenizerTraining

PerceptualName = Literal["recipe", "none", "local", "convnext", "lpips"]
_AUTO = "auto"
_LOCAL_ALONE = 0.1  # weight of a network asked for by name where the recipe has no perceptual term


@dataclass(frozen=True)
class Request:
    """The options that decide a recipe. None takes what the run has, and where there is no run yet the default.

    Attributes:
        out: the directory of the run.
        data: which images.
        preset: a recipe by name; `small` and `base` are cut to the images, `auto` is the recipe of a built-in set by
            its name, else `base` where there is a GPU and `small` elsewhere.
        size: a published generator, with its training and guidance.
        perceptual: the one feature network that takes all perceptual weight.
        config: a TOML file laid over the recipe.
        overrides: `key.path=value`, laid over all.
        seed: of everything that is drawn at random.
        fresh: whether what the run has counts for nothing.
        device: where it will be trained.
        codes, val_codes: stores to train a generator on, in place of images.
        tokenizer: what made them.
    """

    out: Path
    data: str | None = None
    preset: str | None = None
    size: str | None = None
    perceptual: PerceptualName = "recipe"
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    seed: int | None = None
    fresh: bool = False
    device: DeviceName = "auto"
    codes: Path | None = None
    val_codes: Path | None = None
    tokenizer: Path | None = None


@dataclass(frozen=True)
class Resolved:
    """Options with everything filled in; `stores` is None in a run that has the images."""

    recipe: Recipe
    data: str
    seed: int
    stores: Stores | None = None


def resolve(request: Request, say: Reporter | None = None) -> Resolved:
    """Data, seed and recipe: the options, over what the run in `out` holds, over the preset.

    Args:
        request: the options.
        say: told what takes long where the images must be looked at first, as when archives are fetched.

    Raises:
        AlitokError: no data is named anywhere, an unknown preset or key, or a value that does not fit.
    """
    stored = _stored(request)
    stores = _stores(request, stored)
    data = request.data if request.data is not None else stored.get("data")
    if stores is not None:
        data = stores.splits().name
    if data is None:
        raise AlitokError(f"{request.out} holds no run yet; name the images with --data.")
    if request.preset is None and "recipe" in stored:
        recipe = from_dict(Recipe, stored["recipe"], str(request.out / "run.toml"))
    else:
        look = None if stores is None else stores.look()
        recipe = named_recipe(request.preset or _AUTO, data, request.device, look, say)
    if stores is not None:
        shape = stores.tokenizer.config
        recipe = replace(recipe, tokenizer=replace(shape, stage2=shape.stage2 or recipe.tokenizer.stage2))
    recipe = altered(
        recipe, size=request.size, config=request.config, overrides=request.overrides, perceptual=request.perceptual
    )
    seed = request.seed if request.seed is not None else stored.get("seed", 0)
    if not 0 <= seed < 2**63:
        raise AlitokError(f"The seed must be within 0 and 2^63, not {seed}.")
    return Resolved(recipe, data, seed, stores)


def altered(
    recipe: Recipe,
    *,
    size: str | None = None,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    perceptual: PerceptualName = "recipe",
) -> Recipe:
    """A recipe with what the options change in it, in this order.

    Args:
        recipe: the preset's, or a run's.
        size: a published generator, with its training and guidance.
        config: a TOML file laid over the recipe.
        overrides: `key.path=value`.
        perceptual: the one feature network that takes all perceptual weight.

    Raises:
        AlitokError: there is no such size or key, or a value does not fit.
    """
    if size is not None:
        recipe = with_generator(recipe, size)
    keys = to_dict(recipe)
    if config is not None:
        keys = to_dict(_laid_over(keys, config))
    recipe = from_dict(Recipe, override(keys, overrides), "--set")
    if perceptual == "recipe":
        return recipe
    return replace(
        recipe,
        stage1=_with_perceptual(recipe.stage1, perceptual),
        stage2=_with_perceptual(recipe.stage2, perceptual),
    )


def _laid_over(keys: dict[str, Any], path: Path) -> Recipe:
    """A recipe with the keys of a file over it; the whole recipe of a `run.toml` takes its place.

    Raises:
        AlitokError: the file cannot be read, has keys of a recipe both in `[recipe]` and beside it, or they do not fit.
    """
    found = read_toml(path)
    inner = found.get("recipe")
    if isinstance(inner, dict):
        twice = [field.name for field in fields(Recipe) if field.name in found]
        if twice:
            raise AlitokError(f"{path}: '{twice[0]}' stands beside [recipe]; put all keys of the recipe in one place.")
        if inner.keys() >= {field.name for field in fields(Recipe) if field.default is MISSING}:
            return from_dict(Recipe, inner, str(path))
        found = inner
    return from_dict(Recipe, merge(keys, found, str(path)), str(path))


def _stores(request: Request, stored: Mapping[str, Any]) -> Stores | None:
    """The codes that were named, or those that the run was begun with."""
    paths = stored.get("codes", {})
    train, val = request.codes or paths.get("train"), request.val_codes or paths.get("val")
    if train is None:
        if val is not None or request.tokenizer is not None:
            raise AlitokError("--val-codes and --tokenizer go with --codes.")
        return None
    if request.data is not None and request.codes is None:
        raise AlitokError(f"{request.out} holds a run trained on codes alone; choose another directory with --out.")
    if request.data is not None:
        raise AlitokError("--codes takes the place of --data; give one of them.")
    kept = request.out / "model" / "tokenizer"
    tokenizer = request.tokenizer or (kept if kept.exists() else None)
    return open_stores(Path(train), None if val is None else Path(val), tokenizer)


def _stored(request: Request) -> dict[str, Any]:
    path = request.out / "run.toml"
    return read_toml(path) if path.is_file() and not request.fresh else {}


def named_recipe(
    name: str, data: str, device: DeviceName = "auto", look: Preview | None = None, say: Reporter | None = None
) -> Recipe:
    """A recipe by its name, cut to the images where it is one of those.

    Args:
        name: of the preset.
        data: which images.
        device: where it will be trained.
        look: what is known of the images; None looks at them.
        say: told what takes long in that.

    Raises:
        AlitokError: there is no such preset, or the images cannot be looked at.
    """
    if name == _AUTO:
        if data in RECIPE_CLASSES and look is None:
            return RECIPES[data]
        name = "base" if choose_device(device).type == "cuda" else "small"
    if name in FITTED:
        look = look or preview(data, log=say)
        return fitted(name, image_size=look.image_size, images=look.images)
    if name not in RECIPES:
        raise AlitokError(f"There is no preset {name!r}; choose one of: {', '.join((_AUTO, *FITTED, *RECIPES))}.")
    return RECIPES[name]


def _with_perceptual(
    training: TokenizerTraining, name: Literal["none", "local", "convnext", "lpips"]
) -> TokenizerTraining:
    """All perceptual weight on one network; where there is none, the usual weight in every phase."""

    def changed(phase: TokenizerPhase) -> TokenizerPhase:
        losses = phase.losses
        if name != "none" and not losses.networks():
            losses = replace(losses, local=_LOCAL_ALONE)
        return replace(phase, losses=losses.with_perceptual(name))

    return replace(training, phases=tuple(changed(phase) for phase in training.phases))
