"""The page in Gradio: its controls, and the answers as they arrive.

Only this file imports Gradio. An event depends only on the controls of the page that sent it; the
models are shared and read-only. The page makes no requests to other hosts: it uses system fonts,
and Gradio's analytics and sharing are off.
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from src.data.squad_types import Paragraph
from src.evaluation.squad_metrics import QAExample, qa_example
from src.inference.sampling import Sampling
from src.playground import render, vote_page
from src.playground.answers import AnswerSettings, PolicyAnswers, answers
from src.playground.checkpoints import CheckpointList
from src.playground.comparisons import Voting
from src.training.device import in_this_precision
from src.utils.errors import UserError

HOST = "127.0.0.1"
NO_REWARD_MODEL = "none"
AT_ONCE = 2  # requests computed at the same time; the others see their place in the queue
WAITING = 32  # requests in the queue; more are refused
TICK = 0.25  # seconds between polls of a policy that is answering; Stop acts at the next poll


def import_gradio():
    """The gradio package; UserError where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    try:
        import gradio
    except ImportError:
        raise UserError(
            "gradio is not installed, the playground needs it, run: "
            "python -m pip install -r requirements-playground.txt"
        ) from None
    return gradio


def known_questions(paragraphs: Sequence[Paragraph]) -> list[QAExample]:
    """The questions to pick from, with their golds."""
    return [qa_example(p, q) for p in paragraphs for q in p.questions]


def responder(
    loaded: CheckpointList, known: Sequence[QAExample], device: torch.device | str
) -> Callable[..., Iterator[tuple[str, str]]]:
    """The function behind the Answer button: controls -> (status, answers) as HTML, yielded again
    after each policy's answer and every TICK seconds before it.

    Worker threads compute, so that Stop frees the page at once. An answer in progress is still
    finished, then discarded; until then it occupies one of the AT_ONCE workers.
    """
    workers, advance = ThreadPoolExecutor(AT_ONCE), in_this_precision(next, device)
    golds = {(example.context, example.question): example.golds for example in known}

    def respond(context, question, names, reward_name, temperature, top_k, top_p, samples, seed):
        example = QAExample(context, question, golds.get((context, question), ()))
        sampling = Sampling(float(temperature), int(top_k), float(top_p))
        settings = AnswerSettings(sampling, int(samples), int(seed or 0))
        chosen = [loaded.policies[name] for name in names]
        reward_model = loaded.reward_models.get(reward_name)
        results: list[PolicyAnswers] = []

        def page_of(status: str) -> tuple[str, str]:
            name = reward_model.name if reward_model else ""
            return status, render.render_all(results, example, name)

        if not chosen:
            yield page_of(render.note("No checkpoint chosen, expected at least one.", True))
            return
        arriving = answers(chosen, reward_model, example, settings)
        started = time.monotonic()
        try:
            for number, policy in enumerate(chosen, 1):
                work = workers.submit(advance, arriving)
                while not work.done():
                    busy = f"{policy.name} is answering ({number} of {len(chosen)})"
                    yield page_of(render.note(f"{busy}, {time.monotonic() - started:.0f} s\u2026"))
                    wait([work], timeout=TICK)
                results.append(work.result())
        except UserError as error:
            yield page_of(render.note(str(error), True))
        else:
            yield page_of(render.note(f"Done in {time.monotonic() - started:.2f} s."))
        finally:
            work.cancel()  # if it has not begun

    return respond


def build(
    loaded: CheckpointList,
    known: Sequence[QAExample],
    seed: int,
    device: torch.device | str,
    voting: Voting | None = None,
):
    """The page, not yet served: a gradio.Blocks. voting: what is voted on at /vote, if anything."""
    gr = import_gradio()
    first = known[0] if known else QAExample("", "", ())
    trained = [name for name, policy in loaded.policies.items() if policy.trained]
    with gr.Blocks(title="Pico-LLM playground", analytics_enabled=False) as page:
        gr.Markdown("# Pico-LLM playground\nOne question, every stage's answer side by side.")
        for line in loaded.refused:
            gr.HTML(render.note(f"Not loaded: {line}", warning=True))
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                pick = gr.Dropdown(
                    [(example.question, i) for i, example in enumerate(known)],
                    value=0 if known else None,
                    label="Pick a held-out question",
                )
                context = gr.Textbox(
                    first.context, label="Context", lines=5, max_lines=10, elem_id="context"
                )
                question = gr.Textbox(first.question, label="Question", elem_id="question")
                names = gr.CheckboxGroup(list(loaded.policies), value=trained, label="Checkpoints")
            with gr.Column(scale=2, min_width=320):
                temperature = gr.Slider(
                    0, 2, 0, step=0.05, label="Temperature",
                    info="0: the one most probable answer, whatever is set below",
                )
                top_k = gr.Slider(0, 100, 0, step=1, label="Top-k", info="0: all tokens")
                top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="1: all tokens")
                samples = gr.Slider(1, 8, 1, step=1, label="Samples", info="answers a checkpoint")
                with gr.Row():
                    reward_model = gr.Dropdown(
                        [*loaded.reward_models, NO_REWARD_MODEL],
                        value=next(iter(loaded.reward_models), NO_REWARD_MODEL),
                        label="Reward model", min_width=200,
                    )
                    seed_box = gr.Number(
                        seed, label="Seed", precision=0, minimum=0, min_width=100
                    )
        with gr.Row():
            go = gr.Button("Answer", variant="primary", elem_id="go")
            stop = gr.Button("Stop", elem_id="stop")
        status = gr.HTML(elem_id="status", padding=False)
        results = gr.HTML(elem_id="results", padding=False)
        pick.input(
            lambda i: (known[i].context, known[i].question), pick, [context, question],
            queue=False, show_progress="hidden", api_visibility="private",
        )
        inputs = [
            context, question, names, reward_model, temperature, top_k, top_p, samples, seed_box,
        ]
        running = gr.on(
            [go.click, question.submit], responder(loaded, known, device), inputs,
            [status, results], concurrency_limit=AT_ONCE, show_progress="minimal",
            show_progress_on=status, api_visibility="private",
        )
        # Gradio ignores a new click on Answer until the browser has seen the end of the old one. It
        # then calls `failure` for a request that was stopped. A status set by Stop itself would
        # appear earlier, and the next click would be lost.
        stop.click(None, cancels=[running], queue=False, api_visibility="private")
        running.failure(
            lambda: render.note("Stopped. What was finished stands below."), None, status,
            queue=False, show_progress="hidden", api_visibility="private",
        )
    if voting is not None:
        vote_page.add_vote_page(gr, page, voting, loaded, device)
    return page


def require_port(port: int) -> None:
    """UserError if the port cannot be opened, as where another process listens on it."""
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself does
        try:
            place.bind((HOST, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "is in use" if taken else f"cannot be opened ({error.strerror})"
            raise UserError(f"--port {port} given, which {why}, name another") from None


def serve(page, port: int, block: bool = True) -> str:
    """Serve the page to this machine only; returns its address, at once unless `block`.

    Raises OSError where the port is taken.
    """
    gr = import_gradio()
    theme = gr.themes.Base(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    page.queue(max_size=WAITING)
    _, url, _ = page.launch(
        server_name=HOST, server_port=port, share=False, quiet=True, prevent_thread_lock=True,
        footer_links=[], enable_monitoring=False, ssr_mode=False, mcp_server=False,
        theme=theme, css=render.CSS + vote_page.CSS, head=vote_page.keys_script(),
    )
    print(f"playground: {url} (Ctrl-C ends it)", flush=True)
    if block:
        page.block_thread()
    return url
