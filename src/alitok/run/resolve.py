"""The recipe, data and seed of a run: the options, over what the run has already, over a preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from alitok.core.choices import DeviceName
from alitok.core.config import from_dict, merge, override, read_toml, to_dict
from alitok.core.console import Reporter
from alitok.core.device import choose_device
from alitok.core.errors import AlitokError
from alitok.data.survey import Preview, preview
from alitok.recipes.fitted import FITTED, fitted
from alitok.recipes.presets import RECIPE_CLASSES, RECIPES, Recipe, with_generator
from alitok.run.options import PerceptualName, TrainOptions
from alitok.run.rundir import RUN_FILE
from alitok.run.stores import Stores, open_stores
from alitok.train.tokenizer import TokenizerPhase, TokenizerTraining

_AUTO = "auto"
_LOCAL_ALONE = 0.1  # weight of a requested network where the recipe has no perceptual term


@dataclass(frozen=True)
class Resolved:
    """Options with everything filled in; `stores` is None in a run on images."""

    recipe: Recipe
    data: str
    seed: int
    stores: Stores | None = None


def resolve(options: TrainOptions, report: Reporter | None = None, *, fresh: bool = False) -> Resolved:
    """Data, seed and recipe: the options, over what the run in `out` has (ignored if `fresh`), over the preset.

    Raises:
        AlitokError: no data is named anywhere, an unknown preset or key, or a value that does not fit.
    """
    path = options.out / RUN_FILE
    stored = read_toml(path) if path.is_file() and not fresh else {}
    stores = _stores(options, stored)
    data = options.data if options.data is not None else stored.get("data")
    if stores is not None:
        data = stores.splits().name
    if data is None:
        raise AlitokError(f"{options.out} has no run yet; name the images with --data.")
    if options.preset is None and "recipe" in stored:
        try:
            recipe = from_dict(Recipe, stored["recipe"], str(path))
        except AlitokError as error:
            hint = "If another version of alitok began this run, give a new directory with --out."
            raise AlitokError(f"{str(error).rstrip('.')}. {hint}") from None
    else:
        known = None if stores is None else Preview(stores.tokenizer.config.image_size, stores.train.images)
        recipe = named_recipe(options.preset or _AUTO, data, options.device, known, report)
    if stores is not None:
        shape = stores.tokenizer.config
        recipe = replace(recipe, tokenizer=replace(shape, stage2=shape.stage2 or recipe.tokenizer.stage2))
    recipe = altered(
        recipe, size=options.size, config=options.config, overrides=options.overrides, perceptual=options.perceptual
    )
    seed = options.seed if options.seed is not None else stored.get("seed", 0)
    if not 0 <= seed < 2**63:
        raise AlitokError(f"The seed must be between 0 and 2^63, not {seed}.")
    return Resolved(recipe, data, seed, stores)


def altered(
    recipe: Recipe,
    *,
    size: str | None = None,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    perceptual: PerceptualName = "recipe",
) -> Recipe:
    """A recipe changed by options, in this order.

    `size` is a published generator, with its training and guidance; `config` a TOML file of recipe keys; `overrides`
    are `key.path=value`; `perceptual` is the one feature network that takes all perceptual weight.

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
    """A recipe with the keys of a file; the whole recipe of a `run.toml` replaces it."""
    found = read_toml(path)
    inner = found.get("recipe")
    if isinstance(inner, dict):
        twice = [field.name for field in fields(Recipe) if field.name in found]
        if twice:
            raise AlitokError(f"{path}: '{twice[0]}' stands beside [recipe]; put all recipe keys in one place.")
        if inner.keys() >= {field.name for field in fields(Recipe) if field.default is MISSING}:
            return from_dict(Recipe, inner, str(path))
        found = inner
    return from_dict(Recipe, merge(keys, found, str(path)), str(path))


def _stores(options: TrainOptions, stored: Mapping[str, Any]) -> Stores | None:
    """The code stores that were named, or those that the run was begun with."""
    paths = stored.get("codes", {})
    train, val = options.codes or paths.get("train"), options.val_codes or paths.get("val")
    if train is None:
        if val is not None or options.tokenizer is not None:
            raise AlitokError("--val-codes and --tokenizer go with --codes.")
        return None
    if options.data is not None and options.codes is None:
        raise AlitokError(f"{options.out} holds a run trained on codes alone; choose another directory with --out.")
    if options.data is not None:
        raise AlitokError("--codes takes the place of --data; give one of them.")
    saved = options.out / "model" / "tokenizer"
    tokenizer = options.tokenizer or (saved if saved.exists() else None)
    return open_stores(Path(train), None if val is None else Path(val), tokenizer)


def named_recipe(
    name: str, data: str, device: DeviceName = "auto", known: Preview | None = None, report: Reporter | None = None
) -> Recipe:
    """A preset by name, or auto (base on a GPU); small and base are fitted to the images, scanned unless `known`.

    Raises:
        AlitokError: there is no such preset, or the images cannot be scanned.
    """
    if name == _AUTO:
        if data in RECIPE_CLASSES and known is None:
            return RECIPES[data]
        name = "base" if choose_device(device).type == "cuda" else "small"
    if name in FITTED:
        known = known or preview(data, log=report)
        return fitted(name, image_size=known.image_size, images=known.images)
    if name not in RECIPES:
        raise AlitokError(f"There is no preset {name!r}; choose one of: {', '.join((_AUTO, *FITTED, *RECIPES))}.")
    return RECIPES[name]


def _with_perceptual(
    training: TokenizerTraining, name: Literal["none", "local", "convnext", "lpips"]
) -> TokenizerTraining:
    """All perceptual weight on one network; the usual weight in every phase of a recipe without a perceptual term."""

    def changed(phase: TokenizerPhase) -> TokenizerPhase:
        losses = phase.losses
        if name != "none" and not losses.networks():
            losses = replace(losses, local=_LOCAL_ALONE)
        return replace(phase, losses=losses.with_perceptual(name))

    return replace(training, phases=tuple(changed(phase) for phase in training.phases))
