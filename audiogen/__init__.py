"""audiogen: your folder of sounds -> your generator -> your vocoder -> honest scores."""

__version__ = "0.1.0"


def __getattr__(name: str):
    # Loaded on first use, so that `import audiogen` stays light.
    if name in ("generate", "Engine"):
        from audiogen import pipeline

        return getattr(pipeline, name)
    if name in ("Audio",):
        from audiogen.core.audio import Audio

        return Audio
    if name in ("Prompt",):
        from audiogen.core.interfaces import Prompt

        return Prompt
    raise AttributeError(f"module 'audiogen' has no attribute {name!r}")
