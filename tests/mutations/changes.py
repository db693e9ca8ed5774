"""Mistakes that tests must notice: (what it does, file below src/alitok, what stands there, what is put there, test).

Each is one that would train, draw or measure something else without any error; `run.py` tries them.
"""

from __future__ import annotations

from collections.abc import Iterator


def _of(file: str, tests: str, *changes: tuple[str, str, str, str]) -> Iterator[tuple[str, str, str, str, str]]:
    """Changes of one file, with the names of tests in one file."""
    for name, old, new, test in changes:
        yield name, file, old, new, f"{tests}::{test}"


CHANGES = [
    *_of(
        "tokenizer/quantizer.py",
        "tests/tokenizer/test_quantizer.py",
        (
            "straight-through with the wrong sign",
            "features + (vectors - features).detach()",
            "features - (vectors - features).detach()",
            "test_straight_through_passes_gradients_unchanged_and_values_quantized",
        ),
        (
            "no gradient passes straight through",
            "features + (vectors - features).detach()",
            "vectors",
            "test_straight_through_passes_gradients_unchanged_and_values_quantized",
        ),
        (
            "weights of codebook and commitment exchanged",
            "F.mse_loss(vectors, features.detach()) + COMMITMENT * F.mse_loss(features, vectors.detach())",
            "COMMITMENT * F.mse_loss(vectors, features.detach()) + F.mse_loss(features, vectors.detach())",
            "test_loss_and_gradients_are_those_of_the_formula",
        ),
        (
            "the codebook term pulls on the features",
            "F.mse_loss(vectors, features.detach())",
            "F.mse_loss(vectors, features)",
            "test_loss_and_gradients_are_those_of_the_formula",
        ),
        (
            "the farthest code",
            "self._distances(rows).argmin(dim=1)",
            "self._distances(rows).argmax(dim=1)",
            "test_codes_are_the_nearest_by_brute_force",
        ),
        (
            "distances with the wrong sign of the product",
            "alpha=-2",
            "alpha=2",
            "test_codes_are_the_nearest_by_brute_force",
        ),
        (
            "clustering onto the farthest feature",
            "nearest, row = distances.min(dim=0)",
            "nearest, row = distances.max(dim=0)",
            "test_clustering_equals_the_rule_code_by_code",
        ),
        (
            "clustering moves the codes that are used",
            "torch.exp(-_DEAD_RATE * size * self.usage / (1 - USAGE_DECAY) - 1e-3)",
            "1 - torch.exp(-_DEAD_RATE * size * self.usage / (1 - USAGE_DECAY) - 1e-3)",
            "test_the_first_step_moves_unused_codes_onto_features_and_leaves_used_ones",
        ),
        (
            "usage forgets what it should keep",
            "self.usage.mul_(USAGE_DECAY).add_(share, alpha=1 - USAGE_DECAY)",
            "self.usage.mul_(1 - USAGE_DECAY).add_(share, alpha=USAGE_DECAY)",
            "test_clustering_equals_the_rule_code_by_code",
        ),
        (
            "clustering does not know how large the codebook is",
            "-_DEAD_RATE * size * self.usage",
            "-_DEAD_RATE * self.usage",
            "test_clustering_equals_the_rule_code_by_code",
        ),
        (
            "microbatches keep the farther feature",
            "closer = other.distances < self.distances",
            "closer = other.distances > self.distances",
            "test_clustering_equals_the_rule_code_by_code",
        ),
        (
            "among equally near features the last",
            "closer = other.distances < self.distances",
            "closer = other.distances <= self.distances",
            "test_of_equally_near_features_the_first_is_kept",
        ),
    ),
    *_of(
        "nn/rotary.py",
        "tests/nn/test_rotary.py",
        (
            "rotation the other way round",
            "even * cos - odd * sin, odd * cos + even * sin",
            "even * cos + odd * sin, odd * cos - even * sin",
            "test_rotation_is_a_complex_product_and_kills_the_class_token",
        ),
        (
            "the grid does not begin behind the prefix",
            "torch.outer(prefix + torch.arange(grid), grid_rates)",
            "torch.outer(torch.arange(grid), grid_rates)",
            "test_table_equals_the_rule_number_by_number",
        ),
        (
            "rows and columns exchanged",
            "torch.cat([rows, columns], dim=-1)",
            "torch.cat([columns, rows], dim=-1)",
            "test_table_equals_the_rule_number_by_number",
        ),
        (
            "the grid before the prefix",
            "torch.cat([prefix_angles, grid_angles])",
            "torch.cat([grid_angles, prefix_angles])",
            "test_table_equals_the_rule_number_by_number",
        ),
        (
            "the class token is turned",
            "torch.zeros_like(table[:1])",
            "torch.ones_like(table[:1])",
            "test_rotation_is_a_complex_product_and_kills_the_class_token",
        ),
    ),
    *_of(
        "nn/attention.py",
        "tests/nn/test_attention.py",
        (
            "no causal mask",
            "is_causal=causal and length > 1",
            "is_causal=False",
            "test_attention_equals_explicit_softmax",
        ),
        (
            "with a cache the mask begins at the first position",
            ".tril(cache.start)",
            ".tril()",
            "test_cached_in_chunks_equals_the_whole",
        ),
        (
            "with weighted values the mask is the other way round",
            ".triu(1)",
            ".tril(-1)",
            "test_weighted_values_equal_explicit_softmax",
        ),
        (
            "weights of values before the softmax",
            "scores.masked_fill(behind, -torch.inf).softmax(-1)\n    return (probs * value_weights[:, None]) @ values",
            "(scores.masked_fill(behind, -torch.inf) * value_weights[:, None]).softmax(-1)\n    return probs @ values",
            "test_weighted_values_equal_explicit_softmax",
        ),
        (
            "norms of queries and keys exchanged",
            "self.query_norm(queries.to(dtype)), self.key_norm(keys.to(dtype))",
            "self.key_norm(queries.to(dtype)), self.query_norm(keys.to(dtype))",
            "test_queries_and_keys_have_norms_of_their_own",
        ),
    ),
    *_of(
        "nn/blocks.py",
        "tests/nn/test_blocks.py",
        (
            "attention before its norm",
            "self.attention_norm(x), rotary=rotary",
            "x, rotary=rotary",
            "test_blocks_add_attention_and_mlp_behind_their_norms",
        ),
        (
            "nothing is added to the stream",
            "return x + self.dropout(self.mlp(self.mlp_norm(x)))",
            "return self.dropout(self.mlp(self.mlp_norm(x)))",
            "test_blocks_add_attention_and_mlp_behind_their_norms",
        ),
        (
            "the wrong branch of SwiGLU is gated",
            "F.silu(self.gate(x)) * self.up(x)",
            "self.gate(x) * F.silu(self.up(x))",
            "test_swiglu_gates_one_branch_by_the_other",
        ),
    ),
    *_of(
        "tokenizer/vit.py",
        "tests/tokenizer/test_vit.py",
        (
            "the causal encoder looks ahead",
            "cell[None, :] <= cell[:, None]",
            "cell[None, :] >= cell[:, None]",
            "test_causal_encoder_codes_see_no_patch_behind_their_own",
        ),
        (
            "the causal decoder looks ahead",
            "causal=self.config.causal, cache=cache",
            "causal=False, cache=cache",
            "test_causal_decoder_draws_a_patch_from_codes_up_to_its_own",
        ),
        (
            "the strip is drawn from the last positions",
            "self.prefix_head(x[:, : self.prefix], rows=1)",
            "self.prefix_head(x[:, -self.prefix :], rows=1)",
            "test_causal_decoder_draws_a_patch_from_codes_up_to_its_own",
        ),
        (
            "the picture is drawn from the first positions",
            "x[:, -self.grid * self.grid :]",
            "x[:, : self.grid * self.grid]",
            "test_causal_decoder_draws_a_patch_from_codes_up_to_its_own",
        ),
        (
            "the wrong codes are left aside",
            "self.read(vectors[:, self.unread :])",
            "self.read(vectors[:, : vectors.shape[1] - self.unread])",
            "test_bidirectional_decoder_reads_every_code_it_is_given",
        ),
        (
            "rows and columns of a patch exchanged",
            "permute(0, 5, 1, 3, 2, 4)",
            "permute(0, 5, 1, 4, 2, 3)",
            "test_pixel_head_orders_pixels_row_column_channel",
        ),
    ),
    *_of(
        "tokenizer/model.py",
        "tests/tokenizer/test_model.py",
        (
            "stage 2 trains the encoder",
            'torch.set_grad_enabled(stage == "stage1" and torch.is_grad_enabled())',
            "torch.set_grad_enabled(torch.is_grad_enabled())",
            "test_stage1_reaches_the_encoder_with_gradients_and_stage2_only_its_decoder",
        ),
    ),
    *_of(
        "losses/objective.py",
        "tests/losses/test_objective.py",
        (
            "the auxiliary loss pulls on the whole picture",
            "rest = reconstruction.detach()",
            "rest = reconstruction",
            "test_the_auxiliary_loss_pulls_on_the_strip_alone",
        ),
        (
            "a long strip is cut at the wrong end",
            "prefix_strip[..., max(prefix_strip.shape[-1] - rest.shape[-1], 0) :]",
            "prefix_strip[..., : rest.shape[-1]]",
            "test_the_first_row_is_the_strips_as_far_as_it_goes",
        ),
        (
            "copies of the last patch",
            "[row[..., :patch_size]] * copies",
            "[row[..., -patch_size:]] * copies",
            "test_released_strip_repeats_the_first_patch_and_a_short_one_covers_the_first_patches",
        ),
        (
            "the auxiliary loss of the last row",
            "row = images[:, :, :patch_size]  #",
            "row = images[:, :, -patch_size:]  #",
            "test_released_strip_repeats_the_first_patch_and_a_short_one_covers_the_first_patches",
        ),
        (
            "weights of losses are not used",
            "getattr(weights, name) * term for",
            "term for",
            "test_all_terms_and_their_sums_equal_those_by_hand",
        ),
    ),
    *_of(
        "losses/perceptual.py",
        "tests/losses/test_local_features.py",
        (
            "features are not brought to length 1",
            "F.normalize(wanted.float(), dim=1, eps=1e-10)",
            "wanted.float()",
            "test_distance_is_that_of_unit_features_by_hand",
        ),
    ),
    *_of(
        "losses/adversarial.py",
        "tests/losses/test_adversarial.py",
        (
            "the discriminator takes real for false",
            "F.relu(1 - real_logits.float()).mean() + F.relu(1 + fake_logits.float()).mean()",
            "F.relu(1 + real_logits.float()).mean() + F.relu(1 - fake_logits.float()).mean()",
            "test_hinge_terms_by_hand",
        ),
        (
            "the generator helps the discriminator",
            "return -fake_logits.float().mean()",
            "return fake_logits.float().mean()",
            "test_hinge_terms_by_hand",
        ),
        (
            "LeCam pulls the other way",
            "F.relu(real_logits.float() - self.fake)",
            "F.relu(self.fake - real_logits.float())",
            "test_lecam_by_hand_before_and_after_updates",
        ),
        (
            "LeCam forgets what it should keep",
            "self.real.lerp_(real_mean.float(), 1 - _DECAY)",
            "self.real.lerp_(real_mean.float(), _DECAY)",
            "test_lecam_by_hand_before_and_after_updates",
        ),
        (
            "the adaptive weight upside down",
            "reconstruction_gradient.float().norm() / (adversarial_gradient.float().norm() + _EPSILON)",
            "adversarial_gradient.float().norm() / (reconstruction_gradient.float().norm() + _EPSILON)",
            "test_adaptive_weight_is_vqgans_for_any_split_of_the_batch",
        ),
        (
            "the adaptive weight has no bound",
            "ratio.clamp(0, _MOST)",
            "ratio",
            "test_adaptive_weight_is_at_most_ten_thousand_and_part_of_the_state",
        ),
    ),
    *_of(
        "train/adversary.py",
        "tests/train/test_adversary.py",
        (
            "the verdict trains the discriminator",
            "{name: value.detach() for name",
            "{name: value for name",
            "test_the_verdict_reaches_the_picture_and_leaves_the_discriminator_alone",
        ),
        (
            "the adaptive weight is measured and not used",
            "weight * ratio * verdict",
            "weight * verdict",
            "test_the_adaptive_weight_of_the_step_before_is_used",
        ),
        (
            "turns in the other order",
            "phase_step % 2 == 1",
            "phase_step % 2 == 0",
            "test_both_sides_learn_each_step_or_in_turns",
        ),
    ),
    *_of(
        "train/optim.py",
        "tests/train/test_optim.py",
        (
            "the average forgets what it should keep",
            "weight = 1 - ema_decay_at(self.updates, self.decay)",
            "weight = ema_decay_at(self.updates, self.decay)",
            "test_average_equals_the_recurrence_with_a_growing_decay_and_is_lent_to_the_model",
        ),
        (
            "the average's decay does not warm up",
            "return min(decay, (1 + updates) / (10 + updates))",
            "return decay",
            "test_average_equals_the_recurrence_with_a_growing_decay_and_is_lent_to_the_model",
        ),
        (
            "clipping makes small gradients large",
            "(largest / (norm + 1e-6)).clamp(max=1.0)",
            "largest / (norm + 1e-6)",
            "test_norm_and_clipping_are_those_of_torch",
        ),
        (
            "the wrong parameters decay",
            "weight_decay if decays else 0.0",
            "0.0 if decays else weight_decay",
            "test_only_weight_matrices_of_layers_decay",
        ),
    ),
    *_of(
        "train/schedule.py",
        "tests/train/test_schedule.py",
        (
            "the rate rises after the warm-up",
            "span * (1 + math.cos(",
            "span * (1 - math.cos(",
            "test_rate_warms_up_linearly_and_falls_along_half_a_cosine",
        ),
        (
            "the warm-up begins at zero",
            "phase.learning_rate * (step + 1) / phase.warmup_steps",
            "phase.learning_rate * step / phase.warmup_steps",
            "test_rate_warms_up_linearly_and_falls_along_half_a_cosine",
        ),
    ),
    *_of(
        "train/generator.py",
        "tests/train/test_generator.py",
        (
            "the generator is shown the codes that it has to say",
            'models["model"](codes[:, :-1], classes',
            'models["model"](codes[:, 1:], classes',
            "test_the_loss_is_that_of_each_code_behind_its_class_and_the_codes_before_it",
        ),
        (
            "the generator has to say the code before",
            "F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())",
            "F.cross_entropy(logits.flatten(0, 1).float(), codes.roll(1, 1).flatten())",
            "test_the_loss_is_that_of_each_code_behind_its_class_and_the_codes_before_it",
        ),
        (
            "the class is hidden when it should be seen",
            "< self._class_dropout",
            "> self._class_dropout",
            "test_the_class_is_hidden_as_often_as_asked",
        ),
    ),
    *_of(
        "generator/model.py",
        "tests/generator/test_model.py",
        (
            "classes begin one row too early",
            "self.config.codebook_size + 1 + classes",
            "self.config.codebook_size + classes",
            "test_table_holds_codes_one_unused_row_classes_and_none",
        ),
        (
            "the generator looks ahead",
            "causal=True, value_weights",
            "causal=False, value_weights",
            "test_a_code_changes_no_logits_before_it_and_some_at_every_place_behind_it",
        ),
    ),
    *_of(
        "generator/guidance.py",
        "tests/generator/test_guidance.py",
        (
            "guidance away from the class",
            "scale * (conditional - unconditional)",
            "scale * (unconditional - conditional)",
            "test_guidance_is_linear_between_the_branches",
        ),
        (
            "guidance begins at the conditional branch",
            "unconditional + scale *",
            "conditional + scale *",
            "test_guidance_is_linear_between_the_branches",
        ),
        (
            "the cosine falls",
            "(1 - math.cos(math.pi * share**power)) / 2",
            "(1 + math.cos(math.pi * share**power)) / 2",
            "test_the_cosine_starts_at_one_and_bends_with_the_power",
        ),
        (
            "the power bends nothing",
            "share**power",
            "share",
            "test_the_cosine_starts_at_one_and_bends_with_the_power",
        ),
        (
            "the straight line falls",
            '"linear": share,',
            '"linear": 1 - share,',
            "test_constant_and_linear_schedules",
        ),
        (
            "the interval does not hold its start",
            "start <= share < stop",
            "start < share <= stop",
            "test_outside_the_interval_nothing_is_guided",
        ),
        (
            "SoftCFG listens to what was sure",
            "return 1 - confidence / ",
            "return confidence / ",
            "test_soft_weights_take_away_one_in_all",
        ),
    ),
    *_of(
        "generator/sampling.py",
        "tests/generator/test_sampling.py",
        (
            "one code too many",
            "kept = (rank < top_k)",
            "kept = (rank <= top_k)",
            "test_filters_equal_a_loop_over_sorted_codes",
        ),
        (
            "one code too many takes part in the shares",
            "masked_fill(rank >= top_k, -math.inf)",
            "masked_fill(rank > top_k, -math.inf)",
            "test_filters_equal_a_loop_over_sorted_codes",
        ),
        (
            "the code that reaches the share is left out",
            "before = probs.cumsum(-1) - probs",
            "before = probs.cumsum(-1)",
            "test_filters_equal_a_loop_over_sorted_codes",
        ),
        (
            "unlikely codes are kept",
            "(probs >= min_p * probs[:, :1])",
            "(probs <= min_p * probs[:, :1])",
            "test_filters_equal_a_loop_over_sorted_codes",
        ),
        (
            "the last of the kept codes is left out",
            "logits < last",
            "logits <= last",
            "test_filters_equal_a_loop_over_sorted_codes",
        ),
        (
            "noise is taken away",
            "logits + noise)",
            "logits - noise)",
            "test_draws_follow_the_softmax_and_never_give_a_filtered_code",
        ),
        (
            "the temperature upside down",
            "logits = logits / rows.temperature",
            "logits = logits * rows.temperature",
            "test_draws_follow_the_softmax_and_never_give_a_filtered_code",
        ),
        (
            "greedy rows are drawn and drawn ones greedy",
            "torch.where(rows.greedy, logits, logits + noise)",
            "torch.where(rows.greedy, logits + noise, logits)",
            "test_each_row_has_its_own_settings",
        ),
    ),
    *_of(
        "generator/randomness.py",
        "tests/generator/test_randomness.py",
        (
            "Gumbel noise with the wrong sign",
            "return -torch.log(-torch.log1p(-uniform))",
            "return torch.log(-torch.log1p(-uniform))",
            "test_noise_has_the_gumbel_distribution",
        ),
        (
            "noise does not know its position",
            "torch.arange(start, start + count, device=device)",
            "torch.arange(count, device=device)",
            "test_noise_is_a_function_of_seed_picture_position_and_code",
        ),
        (
            "Philox with its rounds' keys exchanged",
            "^ c1 ^ k0",
            "^ c1 ^ k1",
            "test_philox_gives_its_known_answers",
        ),
    ),
    *_of(
        "generator/session.py",
        "tests/generator/test_engine.py",
        (
            "the branches of guidance exchanged",
            "(logits[:batch], logits[batch:])",
            "(logits[batch:], logits[:batch])",
            "test_given_codes_are_kept_and_continued[False-torch]",
        ),
        (
            "SoftCFG in the branch that knows the class",
            "weights[1, :, 1:]",
            "weights[0, :, 1:]",
            "test_given_codes_are_kept_and_continued[True-torch]",
        ),
        (
            "noise of the wrong portion",
            "first = position - position % NOISE_AHEAD",
            "first = position",
            "test_given_codes_are_kept_and_continued[False-torch]",
        ),
    ),
    *_of(
        "metrics/frechet.py",
        "tests/metrics/test_frechet.py",
        (
            "the root of the product counts once",
            "b.covariance.trace()) - 2 * shared)",
            "b.covariance.trace()) - shared)",
            "test_of_independent_features_it_is_the_difference_of_means_and_deviations",
        ),
        (
            "one trace is left out",
            "apart + a.covariance.trace() + b.covariance.trace()",
            "apart + a.covariance.trace()",
            "test_of_independent_features_it_is_the_difference_of_means_and_deviations",
        ),
        (
            "no root is taken",
            ".clamp(min=0).sqrt().tolist()",
            ".clamp(min=0).tolist()",
            "test_of_independent_features_it_is_the_difference_of_means_and_deviations",
        ),
        (
            "means that are not squared",
            "(a.mean - b.mean).square().sum()",
            "(a.mean - b.mean).abs().sum()",
            "test_of_independent_features_it_is_the_difference_of_means_and_deviations",
        ),
        (
            "the bias with the wrong sign",
            "return excess / (doubled - 1)",
            "return -excess / (doubled - 1)",
            "test_the_bias_is_the_mean_of_two_halves_less_the_whole",
        ),
        (
            "a resample without the spread between its blocks",
            "spread += float(",
            "float(",
            "test_a_resample_is_the_distance_of_its_pictures",
        ),
    ),
    *_of(
        "metrics/moments.py",
        "tests/metrics/test_moments.py",
        (
            "a biased covariance",
            "self.products / (self.count - 1)",
            "self.products / self.count",
            "test_mean_and_covariance_are_numpys",
        ),
        (
            "parts are merged without the distance of their means",
            "alpha=self._count * count / total",
            "alpha=0",
            "test_parts_are_merged_in_any_order",
        ),
    ),
    *_of(
        "metrics/kernel_distance.py",
        "tests/metrics/test_kernel_distance.py",
        (
            "pictures are compared with themselves",
            "(within_x.sum() - within_x.trace())",
            "within_x.sum()",
            "test_equal_to_the_definition",
        ),
        ("the kernel's wrong power", ".pow(3)", ".pow(2)", "test_equal_to_the_definition"),
    ),
    *_of(
        "metrics/inception_score.py",
        "tests/metrics/test_inception_score.py",
        (
            "the divergence without its exponential",
            "(mean_negentropy + entropy_of_mean).exp()",
            "(mean_negentropy + entropy_of_mean)",
            "test_sure_and_even_is_the_number_of_classes_and_unsure_is_one",
        ),
        (
            "the entropy with the wrong sign",
            "-torch.special.entr(found).sum(1)",
            "torch.special.entr(found).sum(1)",
            "test_it_is_the_mean_over_splits_in_order_the_last_one_as_it_is",
        ),
    ),
    *_of(
        "metrics/precision_recall.py",
        "tests/metrics/test_precision_recall.py",
        (
            "precision and recall exchanged",
            "precision=float(inside_real.double().mean())",
            "precision=float(inside_samples.double().mean())",
            "test_equal_to_the_definitions",
        ),
        (
            "the feature itself is its first neighbour",
            "[found[:, k] for k in neighbours]",
            "[found[:, k - 1] for k in neighbours]",
            "test_equal_to_the_definitions",
        ),
    ),
    *_of(
        "metrics/predictability.py",
        "tests/metrics/test_predictability.py",
        (
            "bits of the prefix for bits of the grid",
            "bits[prefix:].sum()",
            "bits[:prefix].sum()",
            "test_bits_of_an_image_are_those_of_prefix_and_grid",
        ),
        (
            "nats for bits",
            "nats.double() / math.log(2)",
            "nats.double()",
            "test_bits_of_an_image_are_those_of_prefix_and_grid",
        ),
    ),
    *_of(
        "metrics/reconstruction.py",
        "tests/metrics/test_reconstruction.py",
        (
            "decibels of the amplitude",
            "return -10 * error.log10()",
            "return -20 * error.log10()",
            "test_a_constant_error_of_a_tenth_is_20_decibels_and_twice_the_error_6_less",
        ),
    ),
]
