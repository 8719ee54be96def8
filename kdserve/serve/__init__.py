"""A server over HTTP: embeddings, search and classification for clients that exist. The extra is `kdserve[serve]`.

settings     what is served and how, from TOML and flags
app          everything put together as one ASGI application
running      uvicorn around it: processes, signals, an orderly end
endpoint     a path of the API; openai, tei, searching and probes hold the paths
batching     one queue for all requests (tickets); workers are the threads that it feeds
"""

from kdserve.serve.settings import Limits, ServerSettings, load_settings

__all__ = ["Limits", "ServerSettings", "load_settings"]
