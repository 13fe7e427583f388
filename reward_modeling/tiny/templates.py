"""Chat templates with the token layouts and the habits of published ones, in the fewest words that keep them."""

GEMMA_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}
{%- if message.role not in ('user', 'assistant') %}
{{- raise_exception('This template has no role ' + message.role) }}
{%- elif message.role != ('assistant' if loop.index0 is odd else 'user') %}
{{- raise_exception('Roles must alternate: user, assistant, user, ...') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\n' }}
{{- message.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

CHATML_TEMPLATE = """\
{% for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA3_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

MISTRAL_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}
{%- if message.role != ('assistant' if loop.index0 is odd else 'user') %}
{{- raise_exception('Roles must alternate: user, assistant, user, ...') }}
{%- elif message.role == 'user' %}
{{- '[INST] ' + message.content | trim + ' [/INST]' }}
{%- else %}
{{- ' ' + message.content | trim + eos_token }}
{%- endif %}
{%- endfor %}"""

# A conversation that does not begin with a system turn gets one.
QWEN25_TEMPLATE = (
    """\
{% if messages[0].role != 'system' %}
{{- '<|im_start|>system\n' + 'You are a helpful assistant.' + '<|im_end|>\n' }}
{%- endif %}"""
    + CHATML_TEMPLATE
)

# Turns end in a mark of their own, and the conversation in EOS, which is the pad token too.
PHI3_TEMPLATE = """\
{% for message in messages %}
{{- '<|' + message.role + '|>\n' + message.content + '<|end|>\n' }}
{%- endfor %}
{{- '<|assistant|>\n' if add_generation_prompt else eos_token }}"""

# A system turn stands before the first question, within the user's turn.
GEMMA3_TEMPLATE = """\
{{ bos_token }}
{%- if messages[0].role == 'system' %}
{%- set preamble = messages[0].content + '\n\n' %}{%- set turns = messages[1:] %}
{%- else %}
{%- set preamble = '' %}{%- set turns = messages %}
{%- endif %}
{%- for message in turns %}
{%- if message.role != ('assistant' if loop.index0 is odd else 'user') %}
{{- raise_exception('Roles must alternate: user, assistant, user, ...') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\n' }}
{{- (preamble if loop.first else '') + message.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

# Before the last answer stands a thought, an empty one where the answer has none.
QWEN3_TEMPLATE = """\
{% for message in messages %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{{- message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
