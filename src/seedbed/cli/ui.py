"""The command `seedbed ui`."""

import os
from pathlib import Path

import typer

from seedbed.cli import options as opt
from seedbed.cli.commands import load_pipeline, silence_libraries
from seedbed.errors import BadInput
from seedbed.pipelines.offloading import Offload

_SERVING = "The page"


def ui(
    *,
    port: int = typer.Option(7860, min=1, max=65535, help="Of the page.", rich_help_panel=_SERVING),
    host: str = typer.Option(
        "127.0.0.1",
        help="Address to listen on; any that others reach needs --public and --password.",
        rich_help_panel=_SERVING,
    ),
    public: bool = typer.Option(False, "--public", help="Let others in.", rich_help_panel=_SERVING),
    password: str | None = typer.Option(
        None,
        envvar="SEEDBED_UI_PASSWORD",
        show_envvar=True,
        help="Asked of everybody, with the name seedbed.",
        rich_help_panel=_SERVING,
    ),
    folder: Path = opt.writing(Path("seedbed-ui"), metavar="DIR", help="Where jobs and videos are kept."),
    model: list[str] | None = opt.running(
        None, metavar="PATH", help="Model to offer beside the embedded ones, first; repeatable."
    ),
    verifier: list[str] | None = opt.choosing(
        None, metavar="NAME", help="Verifier to offer beside shapes, digits and artifacts; repeatable."
    ),
    dtype: opt.Dtype | None = opt.DTYPE,
    device: str | None = opt.DEVICE,
    offload: Offload | None = opt.OFFLOAD,
) -> None:
    """Choose by eye in the browser: watch candidates denoise, finish some, compare and rate them.

    Jobs are kept in the folder and go on when it is started again. Ctrl-C ends it.
    """
    import ipaddress
    import threading

    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback and not (public and password):
        raise BadInput(f"--host {host} lets others in: add --public and --password WORD, or leave --host out")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported, as the next one
    os.environ["GRADIO_TEMP_DIR"] = str(folder.resolve() / "served")
    try:
        import gradio
    except ImportError as error:
        raise BadInput(f"seedbed ui needs gradio ({error}): pip install 'seedbed[ui]'") from error
    from seedbed.pipelines.loading import locate, names
    from seedbed.ui.browser import CSS, page
    from seedbed.ui.jobs import Jobs
    from seedbed.ui.judging import KEYS
    from seedbed.ui.worker import Maker, Worker

    silence_libraries()
    models = [*(locate(each) for each in model or ()), *names()]
    verifiers = [*(verifier or ()), "shapes", "digits", "artifacts"]
    jobs = Jobs(folder)
    how = {"dtype": dtype, "device": device, "offload": offload}
    worker = Worker(jobs, Maker(lambda name: load_pipeline(name, False, **how)))
    blocks = page(jobs, worker, models, verifiers)
    fonts = ["system-ui", "sans-serif"]  # the reader's own: nothing is loaded from elsewhere
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            auth=("seedbed", password) if password else None,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            allowed_paths=[str(jobs.folder)],
            theme=gradio.themes.Default(font=fonts, font_mono=["monospace"]),
            css=CSS,
            head=KEYS,
            footer_links=[],
        )
    except OSError as error:
        raise BadInput(f"cannot listen on {host}, port {port}: give another --port ({error})") from error
    worker.start()
    print(f"page    http://{host}:{port}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"jobs are kept in {folder}; run again to go on") from None
    finally:
        worker.stop()
        blocks.close(verbose=False)
