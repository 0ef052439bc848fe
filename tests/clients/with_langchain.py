"""What langchain-openai makes of the planner at argv[1], as JSON. Runs in the environment of bench/litellm_proxy.py."""

import json
import sys

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

TOOL = {"type": "function", "function": {"name": "weigh", "parameters": {"type": "object", "properties": {}}}}

model = ChatOpenAI(
    base_url=sys.argv[1], api_key="of-langchain", model="rice-7b", temperature=0, max_tokens=5, max_retries=0
)
plain = model.invoke("how many grains")
parts = model.invoke([HumanMessage([{"type": "text", "text": "how many grains"}])])
chunks = list(model.stream("how many grains", stream_usage=True))
called = model.bind_tools([TOOL], tool_choice="weigh").invoke("weigh it")
history = [HumanMessage("weigh it"), called, ToolMessage("3 g", tool_call_id=called.tool_calls[0]["id"])]
SCHEMA = {"type": "object", "properties": {"reason": {"type": "string"}, "answer": {"type": "string"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
formatted = model.bind(response_format=FORMAT, seed=7, stop=["x"], logprobs=True).invoke("how many grains")
several = model.generate([[HumanMessage("how many grains")]], n=2).generations[0]
assert isinstance(called, AIMessage)
print(
    json.dumps(
        {
            "plain": plain.content,
            "parts": parts.content,
            "usage": plain.usage_metadata["total_tokens"],
            "streamed": "".join(chunk.content for chunk in chunks),
            "stream_usage": [
                chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata
            ],
            "called": [call["name"] for call in called.tool_calls],
            "choices": [choice.text for choice in several],
            "formatted": formatted.content,
            "after_tool": model.invoke(history).content,
        }
    )
)
