"How JupyterLab is set up for the course; read by .ci/lab.py through --config."

c = get_config()  # noqa: F821  (Jupyter puts it there)


def keep_clean(model: dict, **_) -> None:
    "Opening and saving a notebook changes nothing but what the reader changed: no versions, no times."
    if model["type"] != "notebook" or model["content"]["nbformat"] != 4: return
    meta = model["content"]["metadata"]
    if "language_info" in meta: meta["language_info"] = {"name": "python"}
    if meta.get("kernelspec", {}).get("name") == "python3":
        meta["kernelspec"] = {"display_name": "course_lib", "language": "python", "name": "python3"}
    for cell in model["content"]["cells"]:
        for key in ("execution", "ExecuteTime"): cell["metadata"].pop(key, None)


c.FileContentsManager.pre_save_hook = keep_clean
c.ServerApp.answer_yes = True  # Ctrl-C asks nothing
c.LanguageServerManager.autodetect = False  # else it looks for npm at every start
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"
