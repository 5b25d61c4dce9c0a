"""HTTP services, and single requests collected into batches.

- `app`: what every small service needs around its routes; loads Starlette and uvicorn (the extra `serve`).
- `batching`: single requests collected into batches; loads neither.
"""
