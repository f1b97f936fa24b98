"""Ways to break each formula (sign, mask, shift, mean, sum, beta), and the test that must notice.

To add a row: a piece of the function's source that occurs in it exactly once, what to put in its
place, and the name of a test that takes no arguments.
"""

from typing import NamedTuple


class Mutation(NamedTuple):
    function: str
    old: str
    new: str
    test: str


LOSSES = (
    # masks
    Mutation("select", "torch.where(mask, x, 0.0)", "x * mask",
             "test_what_stands_in_the_padding_never_matters"),
    Mutation("select", "torch.where(mask, x, 0.0)", "torch.where(mask, 0.0, x)",
             "test_masked_mean_weighs_tokens_not_rows"),
    Mutation("masked_mean", "mask.sum()", "torch.tensor(mask.numel())",
             "test_masked_mean_weighs_tokens_not_rows"),
    Mutation("masked_mean", ".clamp(min=1)", "", "test_masked_mean_weighs_tokens_not_rows"),
    Mutation("masked_mean", "max(count, 1)", "count",
             "test_sft_loss_without_targets_is_zero_with_gradient_zero"),
    Mutation("whiten", "select(x - masked_mean(x, mask), mask)", "select(x, mask)",
             "test_whiten_is_exact_on_a_ragged_batch"),
    Mutation("whiten", "x - masked_mean(x, mask)", "x - x.mean()",
             "test_what_stands_in_the_padding_never_matters"),
    Mutation("whiten", "masked_mean(centred.square(), mask)", "centred.square().mean()",
             "test_whiten_is_exact_on_a_ragged_batch"),
    Mutation("whiten", " + 1e-8", "", "test_whiten_of_one_entry_or_equal_ones_is_zero"),
    Mutation("explained_variance", "1 - errors", "errors", "test_explained_variance"),
    Mutation("explained_variance", "(returns - values)[mask]", "(returns - values).flatten()",
             "test_explained_variance"),
    # log-probs
    Mutation("token_logp", "-loss.view", "loss.view",
             "test_token_logp_is_the_log_of_the_softmax"),
    Mutation("token_logp", "torch.promote_types(logits.dtype, torch.float32)", "logits.dtype",
             "test_token_logp_is_the_log_of_the_softmax"),
    Mutation("sequence_sum", ".sum(-1)", ".mean(-1)", "test_sequence_sum_and_no_length_mean"),
    Mutation("kl_estimates", "expm1(-k1) + k1", "expm1(k1) - k1",
             "test_kl_estimates_of_a_five_way_categorical"),
    Mutation("kl_estimates", "logp - reference_logp", "reference_logp - logp",
             "test_kl_estimates_of_a_five_way_categorical"),
    Mutation("kl_estimates", " / 2", "", "test_kl_estimates_of_a_five_way_categorical"),
    Mutation("kl_divergence", "logp - reference", "reference - logp",
             "test_kl_divergence_of_a_five_way_categorical"),
    Mutation("kl_divergence", "logp.exp() *", "reference.exp() *",
             "test_kl_divergence_of_a_five_way_categorical"),
    # supervised
    Mutation("sft_loss", "count=count", "count=None", "test_sft_loss_divides_by_the_global_count"),
    Mutation("sft_loss", "return -", "return ", "test_sft_loss_divides_by_the_global_count"),
    # preferences
    Mutation("_in_order", "0.5 *", "1.0 *", "test_dpo_accuracy_counts_ties_half"),
    Mutation("_in_order", "margin > 0", "margin < 0", "test_reward_loss_worked_by_hand"),
    Mutation("dpo_loss", "h = chosen_gain - rejected_gain", "h = rejected_gain - chosen_gain",
             "test_dpo_worked_by_hand"),
    Mutation("dpo_loss", "policy_rejected - reference_rejected.detach()", "policy_rejected",
             "test_dpo_at_step_0_is_ln_2_with_a_gradient"),
    Mutation("dpo_loss", "F.logsigmoid(beta * h)", "F.logsigmoid(h)", "test_dpo_worked_by_hand"),
    Mutation("dpo_loss", "F.logsigmoid(beta * h)", "torch.log(torch.sigmoid(beta * h))",
             "test_dpo_is_finite_far_out"),
    Mutation("dpo_loss", "F.logsigmoid(-beta * h)", "F.logsigmoid(beta * h)",
             "test_dpo_gradient_of_the_smoothed_loss"),
    Mutation("dpo_loss", "1 / (2 * beta)", "1 / beta",
             "test_ipo_has_its_minimum_at_one_over_two_tau"),
    Mutation("dpo_loss", "beta * chosen_gain.detach()", "chosen_gain.detach()",
             "test_dpo_worked_by_hand"),
    Mutation("pairwise_reward_loss", "chosen - rejected\n", "rejected - chosen\n",
             "test_reward_loss_worked_by_hand"),
    Mutation("pairwise_reward_loss", "-F.logsigmoid(margin)", "-torch.log(torch.sigmoid(margin))",
             "test_reward_loss_worked_by_hand"),
    Mutation("_mean", "x.sum() /", "x.mean() /", "test_reward_loss_worked_by_hand"),
    # reinforcement
    Mutation("kl_penalised_rewards", "real_from_here == 1", "real_from_here == 2",
             "test_rewards_put_the_score_once_on_the_last_token"),
    Mutation("kl_penalised_rewards", "last = mask & ", "last = ",
             "test_rewards_find_the_last_token_behind_a_gap"),
    Mutation("kl_penalised_rewards", "select(-beta * k1", "select(beta * k1",
             "test_rewards_put_the_score_once_on_the_last_token"),
    Mutation("kl_penalised_rewards", "(~stopped)", "stopped",
             "test_an_answer_without_stop_token_scores_lower_by_the_penalty"),
    Mutation("adaptive_kl_coefficient", "-0.2), 0.2)", "-0.2), 2.0)",
             "test_adaptive_kl_worked_by_hand"),
    Mutation("adaptive_kl_coefficient", "n / horizon", "horizon / n",
             "test_adaptive_kl_worked_by_hand"),
    Mutation("gae", "next_value = torch.where(mask[..., t], values[..., t], next_value)", "",
             "test_gae_worked_by_hand"),
    Mutation("gae", "gamma * lam * next_advantage", "gamma * next_advantage",
             "test_gae_worked_by_hand"),
    Mutation("gae", "- values[..., t]\n", "+ values[..., t]\n",
             "test_gae_at_lambda_1_is_return_less_value"),
    Mutation("gae", "torch.where(mask[..., t], advantage, next_advantage)", "advantage",
             "test_gae_skips_gaps_wherever_they_stand"),
    Mutation("gae", "advantages + values)", "advantages)", "test_gae_worked_by_hand"),
    Mutation("rloo_advantages", "(samples - 1)", "samples", "test_rloo_leaves_one_out"),
    Mutation("reinforce_loss", "return -", "return ", "test_reinforce_worked_by_hand"),
    Mutation("reinforce_loss", "(rewards - baseline)", "rewards", "test_reinforce_worked_by_hand"),
    Mutation("ppo_policy_loss", "torch.minimum", "torch.maximum",
             "test_policy_loss_clips_on_one_side"),
    Mutation("ppo_policy_loss", "-torch.minimum(ratio * advantages, clipped * advantages)",
             "-clipped * advantages", "test_policy_loss_clips_on_one_side"),
    Mutation("ppo_policy_loss", "(logp - old_logp).exp()", "(old_logp - logp).exp()",
             "test_policy_loss_at_ratio_1_is_the_policy_gradient"),
    Mutation("ppo_policy_loss", "kl_estimates(old_logp, logp.detach())",
             "kl_estimates(logp.detach(), old_logp)", "test_policy_loss_clips_on_one_side"),
    Mutation("ppo_policy_loss", "select(advantages, mask).detach()", "select(advantages, mask)",
             "test_targets_carry_no_gradient"),
    Mutation("ppo_value_loss", "torch.maximum", "torch.minimum",
             "test_value_loss_is_half_the_square_until_clipped"),
    Mutation("ppo_value_loss", "0.5 * masked_mean", "masked_mean",
             "test_value_loss_is_half_the_square_until_clipped"),
    Mutation("ppo_value_loss", "old + (values", "(values",
             "test_value_loss_is_half_the_square_until_clipped"),
)

ANSWER_TEXT = (
    Mutation("normalize_answer", ".lower()", "", "test_normalisation_by_hand"),
    Mutation("normalize_answer", '_ARTICLES.sub(" ", ', "(", "test_normalisation_by_hand"),
    Mutation("normalize_answer", ".translate(_PUNCTUATION)", "", "test_normalisation_by_hand"),
)

SQUAD_METRICS = (
    Mutation("exact_match", "any(", "all(", "test_exact_match_by_hand"),
    Mutation("f1_score", "(Counter(predicted) & Counter(wanted)).total()",
             "sum(word in wanted for word in predicted)", "test_f1_by_hand"),
    Mutation("f1_score", "max(best, ", "max(0.0, ", "test_f1_by_hand"),
    Mutation("f1_score", "if shared:", "best = float(predicted == wanted)\n        if shared:",
             "test_f1_by_hand"),
)

INTERVALS = (
    Mutation("bootstrap_interval", "numbers.setdefault(g, len(numbers)) for g in groups",
             "i for i, g in enumerate(groups)", "test_interval_resamples_contexts_not_questions"),
    Mutation("bootstrap_interval", "float(top.sum() / bottom.sum())",
             "float((top / bottom).mean())", "test_interval_is_of_a_ratio_of_sums"),
    Mutation("bootstrap_interval", "[(1 - level) / 2, (1 + level) / 2]", "[1 - level, level]",
             "test_interval_of_coin_flips_is_the_normal_one"),
    Mutation("paired_difference", "numerators, parent_numerators)\n",
             "parent_numerators, numerators)\n",
             "test_paired_difference_takes_out_what_both_find_hard"),
    Mutation("points_in_order", "0.5 *", "0.0 *", "test_ties_are_half_a_win"),
)

BASELINES = (
    Mutation("baseline_predictions", "if a in context", "if a", "test_baselines"),
)
