"""What litellm makes of the planner at argv[1], as JSON. Runs in the environment of bench/litellm_proxy.py."""

import json
import sys

import litellm

ASKED = {
    "model": "openai/rice-7b",
    "api_base": sys.argv[1],
    "api_key": "of-litellm",
    "temperature": 0,
    "max_completion_tokens": 5,
    "messages": [{"role": "user", "content": "how many grains"}],
    "num_retries": 0,
    "max_retries": 0,
}


def refused(**changes: object) -> list[object]:
    try:
        litellm.completion(**{**ASKED, **changes})
    except litellm.exceptions.APIError as error:
        return [type(error).__name__, error.status_code]
    except litellm.exceptions.BadRequestError as error:
        return [type(error).__name__, error.status_code]
    except litellm.exceptions.RateLimitError as error:
        return [type(error).__name__, error.status_code]
    return []


SCHEMA = {"type": "object", "properties": {"reason": {"type": "string"}, "answer": {"type": "string"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}

plain = litellm.completion(**ASKED)
chunks = list(litellm.completion(**ASKED, stream=True, stream_options={"include_usage": True}))
several = list(litellm.completion(**ASKED, stream=True, n=2))
formatted = litellm.completion(**ASKED, response_format=FORMAT, seed=7, stop=["x"], logprobs=True, user=None)
image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
print(
    json.dumps(
        {
            "plain": plain.choices[0].message.content,
            "usage": plain.usage.total_tokens,
            "streamed": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
            "stream_usage": [c.usage.total_tokens for c in chunks if getattr(c, "usage", None)],
            "image": refused(messages=[{"role": "user", "content": image}]),
            "none": refused(n=0),
            "indices": sorted({c.choices[0].index for c in several if c.choices}),
            "formatted": formatted.choices[0].message.content,
            "over": refused(max_completion_tokens=4000),
        }
    )
)
