"""The coupled rule in distribution: the joint law of six codes against its closed form, by chi-square."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from lumina_jax.config import TransformerConfig
from lumina_jax.model.chameleon import forward
from lumina_jax.model.params import init_params
from lumina_jax.sampling import window
from lumina_jax.sampling.drafts import Proposal
from lumina_jax.sampling.placement import with_code_head
from lumina_jax.sampling.policy import Policy
from lumina_jax.sampling.rules import Rule
from lumina_jax.sampling.slot_state import Program, empty_state
from lumina_jax.sampling.window import one_pass
from lumina_jax.unirep.grid import FREE

START, LINE_END, FIRST_CODE, NUM_CODES = 0, 1, 2, 3
TABLE = [START, FREE, FREE, FREE, LINE_END, FREE, FREE, FREE]
CODES = np.stack(np.meshgrid(*[np.arange(NUM_CODES)] * 6, indexing="ij"), -1).reshape(-1, 6)
NUM_IMAGES = 20_000


def config_of(dtype: str) -> TransformerConfig:
    return TransformerConfig(
        num_layers=1, width=8, num_heads=2, num_kv_heads=2, head_size=4, mlp_width=16, vocab_size=5,
        param_dtype=dtype, compute_dtype=dtype,
    )  # fmt: skip


@pytest.fixture(params=["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def model(request) -> tuple:
    return model_of(request.param)


def model_of(dtype: str) -> tuple:
    """Parameters and config of a model whose next token depends much on those before it."""
    config = config_of(dtype)
    params = init_params(config, jax.random.key(1))
    params["head"]["table"] = 40 * params["head"]["table"]
    params["embed"]["table"] = 40 * params["embed"]["table"]
    return params, config


def exact_law(params, config: TransformerConfig) -> np.ndarray:
    """The probability of each row of CODES, from one forward over all of them."""
    ids = np.tile(np.array(TABLE), (len(CODES), 1))
    ids[:, np.array(TABLE) == FREE] = CODES + FIRST_CODE
    codes = (FIRST_CODE, NUM_CODES)
    logits, _ = jax.jit(partial(forward, config=config, head_slice=codes))(params, ids=ids[:, :-1])
    law = np.asarray(jax.nn.softmax(logits, axis=-1), np.float64)
    places = np.flatnonzero(np.array(TABLE) == FREE) - 1
    each = np.take_along_axis(law[:, places], CODES[..., None], axis=2)[..., 0]
    return each.prod(axis=1)


def draw_many(params, config: TransformerConfig, rule: Rule) -> np.ndarray:
    """Counts of the rows of CODES among NUM_IMAGES drawn images."""
    ones = jnp.ones(NUM_IMAGES)
    seeds = jnp.arange(NUM_IMAGES, dtype=jnp.int32)
    policy = Policy(seeds, ones, (NUM_CODES * ones).astype(jnp.int32), ones[:, None][:, :0])
    program = Program(config, (FIRST_CODE, NUM_CODES), rule)
    num_tokens = len(TABLE) + rule.window
    state = empty_state(program, policy, num_tokens, num_tokens)
    table = jnp.pad(jnp.array(TABLE), (0, rule.window))
    table = jnp.tile(table, (NUM_IMAGES, 1)).astype(jnp.int32)
    whole = jnp.ones(NUM_IMAGES, jnp.int32)
    sentence = state.sentence._replace(
        table=table, ids=table, stop=len(TABLE) * whole, stride=4 * whole
    )
    state = state._replace(base=0 * whole, sentence=sentence)
    drawn_by = with_code_head(params, program.codes)
    step = jax.jit(lambda state: one_pass(drawn_by, state, program))
    while bool((state.sentence.place < state.sentence.stop).any()):
        state = step(state)
    free = np.flatnonzero(np.array(TABLE) == FREE)
    drawn = np.asarray(state.sentence.ids)[:, free] - FIRST_CODE
    assert ((drawn >= 0) & (drawn < NUM_CODES)).all()
    cells = drawn @ (NUM_CODES ** np.arange(5, -1, -1))
    return np.bincount(cells, minlength=len(CODES))


def p_value(counts: np.ndarray, law: np.ndarray) -> float:
    """Of the counts under the law; cells that expect fewer than five are joined."""
    expected = law / law.sum() * counts.sum()
    order = np.argsort(expected)
    rare = order[: np.searchsorted(np.cumsum(expected[order]), 5) + 1]
    common = np.setdiff1d(order, rare)
    joined = [np.append(each[common], each[rare].sum()) for each in (counts, expected)]
    return float(chisquare(*joined).pvalue)


RULES = [
    Rule("coupled", 4, "uniform", (1, 1, 2, 3)),
    Rule("coupled", 3, "above"),
    Rule("tied", 4, "above", (1, 2)),
]


@pytest.mark.parametrize(
    "rule", [RULES[0], *(pytest.param(rule, marks=pytest.mark.slow) for rule in RULES[1:])]
)
def test_joint_law_of_six_codes_equals_the_closed_form(model, rule: Rule) -> None:
    law = exact_law(*model)
    assert law.sum() == pytest.approx(1, abs=1e-3)
    assert p_value(draw_many(*model, rule), law) > 1e-3


def accept_likelier(logits, guess: Proposal, passes, at, policy) -> Proposal:
    """A broken rule: a guess stands where the new law likes it at least half as well, whatever chance says."""
    drawn = true_draw(logits, guess, passes, at, policy)
    new, old = (
        jnp.take_along_axis(each, guess.codes[..., None], -1)[..., 0]
        for each in (drawn.law, guess.law)
    )
    return Proposal(jnp.where(new > 0.5 * old, guess.codes, drawn.codes), drawn.law)


def redraw_from_all(logits, guess: Proposal, passes, at, policy) -> Proposal:
    """A broken rule: what was refused is drawn anew from the whole law, not from the part that was missing."""
    drawn = true_draw(logits, guess, passes, at, policy)
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 99))(policy.seed)
    keys = jax.vmap(jax.random.fold_in)(keys, passes)
    other = jax.vmap(lambda key, law: jax.random.categorical(key, jnp.log(law)))(keys, drawn.law)
    return Proposal(jnp.where(drawn.codes == guess.codes, drawn.codes, other), drawn.law)


true_draw = window.draw_coupled


@pytest.mark.parametrize(
    "broken", [accept_likelier, pytest.param(redraw_from_all, marks=pytest.mark.slow)]
)
def test_chi_square_refuses_a_broken_rule(monkeypatch, broken) -> None:
    params, config = model_of("float32")
    monkeypatch.setattr(window, "draw_coupled", broken)
    counts = draw_many(params, config, Rule("coupled", 4, "uniform"))
    assert p_value(counts, exact_law(params, config)) < 1e-9


@pytest.mark.slow
def test_chi_square_refuses_what_follows_another_branch(monkeypatch) -> None:
    params, config = model_of("float32")

    def always_the_first(right, decided, codes, depths):
        hit = true_hit(right, decided, codes, depths)
        return hit._replace(index=0 * hit.index)

    true_hit = window.find_hit
    monkeypatch.setattr(window, "find_hit", always_the_first)
    counts = draw_many(params, config, Rule("coupled", 4, "uniform", (1, 1)))
    assert p_value(counts, exact_law(params, config)) < 1e-9
