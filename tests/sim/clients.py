"""The official clients of OpenAI and Anthropic against a simulator: `clients.py <base url> <model>`.

Started by tests/it/sim_clients.rs. Ends with a non-zero code at the first thing that is not as the clients expect it.
"""

import json
import sys

import anthropic
import openai

BASE, MODEL = sys.argv[1], sys.argv[2]
HELLO = [{"role": "user", "content": "Hello there, simulator."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["place", "days", "unit"],
        },
    },
}

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="none", max_retries=0, timeout=30)


def check_arguments(text):
    arguments = json.loads(text)
    assert set(arguments) == {"place", "days", "unit"}, arguments
    assert isinstance(arguments["place"], str) and 0 <= arguments["days"] <= 100, arguments
    assert arguments["unit"] in ("C", "F"), arguments


def models():
    names = [model.id for model in client.models.list()]
    assert MODEL in names, names


def chat():
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, logprobs=True, top_logprobs=2)
    choice = answer.choices[0]
    assert choice.message.content == "Hello there, simulator." and choice.finish_reason == "stop", answer
    assert answer.usage.total_tokens == 10 and answer.id.startswith("chatcmpl-"), answer
    logprobs = choice.logprobs.content
    assert [p.token for p in logprobs] == ["Hello ", "there", ", ", "simulator", "."], logprobs
    assert [p.logprob for p in logprobs[:3]] == [-1.0, -1.1, -1.2] and len(logprobs[0].top_logprobs) == 2


def chat_stream():
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "Hello there, simulator.", text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == 5 and not chunks[-1].choices


def several_choices():
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, n=3)
    assert [c.index for c in answer.choices] == [0, 1, 2], answer
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 15), answer.usage
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, n=3, stream=True)
    texts = {}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert texts == {i: "Hello there, simulator." for i in range(3)}, texts


def tools():
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice="required")
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1, answer
    call = choice.message.tool_calls[0]
    assert call.function.name == "weather" and call.type == "function", call
    check_arguments(call.function.arguments)
    named = {"type": "function", "function": {"name": "weather"}}
    with client.chat.completions.stream(
        model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice=named
    ) as stream:
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert call.function.name == "weather", final
    check_arguments(call.function.arguments)


def text():
    answer = client.completions.create(model=MODEL, prompt="one two three", logprobs=2, max_tokens=3)
    choice = answer.choices[0]
    assert choice.text == "one two three" and choice.finish_reason == "length", answer
    assert choice.logprobs.text_offset == [0, 4, 8], choice.logprobs
    answer = client.completions.create(model=MODEL, prompt=["a b", "c"])
    assert [(c.index, c.text) for c in answer.choices] == [(0, "a b"), (1, "c")], answer
    chunks = list(client.completions.create(model=MODEL, prompt="one two three", stream=True))
    assert "".join(c.choices[0].text for c in chunks) == "one two three", chunks


def embeddings():
    answer = client.embeddings.create(model=MODEL, input=["one", "two"], dimensions=8)
    assert [len(e.embedding) for e in answer.data] == [8, 8], answer
    plain = client.embeddings.create(model=MODEL, input="one", dimensions=8, encoding_format="float")
    assert plain.data[0].embedding == answer.data[0].embedding


def responses():
    answer = client.responses.create(model=MODEL, input="Hello there.", instructions="Repeat:")
    assert answer.output_text == "Repeat: Hello there." and answer.status == "completed", answer
    assert answer.usage.total_tokens == 10, answer.usage
    with client.responses.stream(model=MODEL, input="Hello there.") as stream:
        deltas = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert deltas == "Hello there." == final.output_text, (deltas, final)
    tool = {"type": "function", "strict": False, **WEATHER["function"]}
    answer = client.responses.create(model=MODEL, input="x", tools=[tool], tool_choice="required")
    (call,) = answer.output
    assert call.type == "function_call" and call.name == "weather", answer
    check_arguments(call.arguments)
    with client.responses.stream(model=MODEL, input="x", tools=[tool], tool_choice="required") as stream:
        final = stream.get_final_response()
    check_arguments(final.output[0].arguments)


def messages():
    client = anthropic.Anthropic(base_url=BASE, api_key="none", max_retries=0, timeout=30)
    answer = client.messages.create(model=MODEL, max_tokens=50, messages=HELLO, system="Say:")
    assert answer.content[0].text == "Say: Hello there, simulator." and answer.stop_reason == "end_turn", answer
    with client.messages.stream(model=MODEL, max_tokens=3, messages=HELLO) as stream:
        deltas = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert deltas == "Hello there, simulator." and final.stop_reason == "max_tokens", final
    assert (final.usage.input_tokens, final.usage.output_tokens) == (5, 5), final.usage
    function = WEATHER["function"]
    tool = {
        "name": function["name"],
        "description": function["description"],
        "input_schema": function["parameters"],
    }
    arguments = {"model": MODEL, "max_tokens": 50, "messages": HELLO, "tools": [tool], "tool_choice": {"type": "any"}}
    answer = client.messages.create(**arguments)
    assert answer.stop_reason == "tool_use" and answer.content[0].name == "weather", answer
    check_arguments(json.dumps(answer.content[0].input))
    with client.messages.stream(**arguments) as stream:
        final = stream.get_final_message()
    check_arguments(json.dumps(final.content[0].input))
    try:
        client.messages.create(model="nobody", max_tokens=5, messages=HELLO)
    except anthropic.NotFoundError as error:
        assert error.body["error"]["type"] == "not_found_error", error.body
    else:
        raise AssertionError("an unknown model was served")


def errors():
    for arguments, kind in [
        ({"model": "nobody"}, openai.NotFoundError),
        ({"model": MODEL, "max_tokens": 0}, openai.BadRequestError),
        ({"model": MODEL, "max_tokens": 10**9}, openai.BadRequestError),
    ]:
        try:
            client.chat.completions.create(messages=HELLO, **arguments)
        except kind as error:
            assert error.body["code"] == error.status_code and error.body["message"], error.body
        else:
            raise AssertionError(f"served: {arguments}")


for test in [models, chat, chat_stream, several_choices, tools, text, embeddings, responses, messages, errors]:
    print(test.__name__, flush=True)
    test()
