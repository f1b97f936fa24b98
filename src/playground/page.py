"""The page itself, in Gradio: what people set, and the answers as they come.

Only this file knows Gradio. Every event is a function of what stands on the asking person's page;
the models are shared and only read. Nothing is fetched from elsewhere: the theme's fonts are the
system's, and nothing is counted, shared or reported.
"""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from src.data.squad_types import Paragraph
from src.evaluation.squad_metrics import QAExample, qa_example
from src.inference.sampling import Sampling
from src.playground import render
from src.playground.answers import PolicyAnswers, Settings, answers
from src.playground.checkpoints import Shelf
from src.utils.errors import UserError

HOST = "127.0.0.1"
NO_JUDGE = "none"
AT_ONCE = 2  # people whose answers are computed at the same time; the others see their place
WAITING = 32  # people in the queue; more are turned away
TICK = 0.25  # seconds between two looks at a policy that is answering; Stop acts at the next


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
    """The questions that a person can pick, with their golds."""
    return [qa_example(p, q) for p in paragraphs for q in p.questions]


def responder(
    shelf: Shelf, known: Sequence[QAExample], device: torch.device | str
) -> Callable[..., Iterator[tuple[str, str]]]:
    """The function behind the Answer button: what is set -> (status, answers) as HTML, again
    whenever a policy has answered, and every TICK until then.

    The computing is done by threads beside, so that a person who stops waiting is free at once.
    What was begun is finished for nobody, and holds one of AT_ONCE places until it is.
    """
    workers = ThreadPoolExecutor(AT_ONCE)
    golds = {(asked.context, asked.question): asked.golds for asked in known}

    def respond(context, question, names, judge_name, temperature, top_k, top_p, samples, seed):
        asked = QAExample(context, question, golds.get((context, question), ()))
        sampling = Sampling(float(temperature), int(top_k), float(top_p))
        settings = Settings(sampling, int(samples), int(seed or 0))
        chosen = [shelf.policies[name] for name in names]
        judge = shelf.judges.get(judge_name)
        results: list[PolicyAnswers] = []

        def shown(status: str) -> tuple[str, str]:
            return status, render.render_all(results, asked, judge.name if judge else "")

        if not chosen:
            yield shown(render.note("No checkpoint chosen, expected at least one.", True))
            return
        arriving, started = answers(chosen, judge, asked, settings, device), time.monotonic()
        try:
            for number, policy in enumerate(chosen, 1):
                work = workers.submit(next, arriving)
                while not work.done():
                    busy = f"{policy.name} is answering ({number} of {len(chosen)})"
                    yield shown(render.note(f"{busy}, {time.monotonic() - started:.0f} s\u2026"))
                    wait([work], timeout=TICK)
                results.append(work.result())
        except UserError as error:
            yield shown(render.note(str(error), True))
        else:
            yield shown(render.note(f"Done in {time.monotonic() - started:.2f} s."))
        finally:
            work.cancel()  # if it has not begun

    return respond


def build(shelf: Shelf, known: Sequence[QAExample], seed: int, device: torch.device | str):
    """The page, not yet served: a gradio.Blocks."""
    gr = import_gradio()
    first = known[0] if known else QAExample("", "", ())
    trained = [name for name, policy in shelf.policies.items() if policy.trained]
    with gr.Blocks(title="Pico-LLM playground", analytics_enabled=False) as page:
        gr.Markdown("# Pico-LLM playground\nOne question, every stage's answer side by side.")
        for line in shelf.refused:
            gr.HTML(render.note(f"Not loaded: {line}", warning=True))
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                pick = gr.Dropdown(
                    [(asked.question, i) for i, asked in enumerate(known)],
                    value=0 if known else None,
                    label="Pick a held-out question",
                )
                context = gr.Textbox(
                    first.context, label="Context", lines=5, max_lines=10, elem_id="context"
                )
                question = gr.Textbox(first.question, label="Question", elem_id="question")
                names = gr.CheckboxGroup(list(shelf.policies), value=trained, label="Checkpoints")
            with gr.Column(scale=2, min_width=320):
                temperature = gr.Slider(
                    0, 2, 0, step=0.05, label="Temperature",
                    info="0: the one most probable answer, whatever is set below",
                )  # fmt: skip
                top_k = gr.Slider(0, 100, 0, step=1, label="Top-k", info="0: all tokens")
                top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p", info="1: all tokens")
                samples = gr.Slider(1, 8, 1, step=1, label="Samples", info="answers a checkpoint")
                with gr.Row():
                    judge = gr.Dropdown(
                        [*shelf.judges, NO_JUDGE], value=next(iter(shelf.judges), NO_JUDGE),
                        label="Reward model", min_width=200,
                    )  # fmt: skip
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
        )  # fmt: skip
        inputs = [context, question, names, judge, temperature, top_k, top_p, samples, seed_box]
        running = gr.on(
            [go.click, question.submit], responder(shelf, known, device), inputs,
            [status, results], concurrency_limit=AT_ONCE, show_progress="minimal",
            show_progress_on=status, api_visibility="private",
        )  # fmt: skip
        # Gradio takes no new press of Answer before the old one's end has come back to the browser.
        # `failure` is what it calls then, of a press that was stopped; a message sent by Stop
        # itself would be there before, and the next press would be lost.
        stop.click(None, cancels=[running], queue=False, api_visibility="private")
        running.failure(
            lambda: render.note("Stopped. What was finished stands below."), None, status,
            queue=False, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
    return page


def require_port(port: int) -> None:
    """UserError where something else listens at the port already."""
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself does
        try:
            place.bind((HOST, port))
        except OSError:
            raise UserError(f"--port {port} given, which is in use, name another") from None


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
        theme=theme, css=render.CSS,
    )  # fmt: skip
    print(f"playground: {url} (Ctrl-C ends it)", flush=True)
    if block:
        page.block_thread()
    return url
