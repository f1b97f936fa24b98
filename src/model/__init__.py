"""Three decoder architectures behind one forward.

    hidden, state = model(tokens, lengths, state)  # hidden (B, T, D); state: what was read so far
    state = state.select(rows)                     # repeat rows (share a prefix) or drop some
    logits = model.logits(hidden)                  # (..., D) -> (..., V), a separate call

and behind what scoring and generation ask of whole forests (src/model/prefix_sharing/__init__.py):

    hidden = model.read_completions(levels)             # also read_levels, read_last
    ends, state = model.prefill(levels)            # to decode from

A new architecture is a folder here, a row of `MODELS` in model.py, and its name in
src/utils/constants.py. It inherits LevelByLevel, which makes the second group of `forward` alone.
It holds `config` (a dataclass with `vocab_size`, `block_size` and `pointer`), `width` (D) and
`embedding`. Flags of its own shape go to src/utils/cli.py.

Shapes: B batch rows, T tokens, D width, V vocabulary, H heads, K key-value heads, S rows of a
shared segment. `tokens` (B, T) int64 is right-padded with any ids of the vocabulary; `lengths` (B,)
int64 says how many are real, 0 included. What stands in the padding never changes a result; hidden
states there are finite and mean nothing. A state is never mutated: it can be continued several
times.
"""
