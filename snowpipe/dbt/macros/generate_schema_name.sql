{# The model's own schema without the target schema as a prefix: STAGING or MARTS in every stage. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name or target.schema }}
{%- endmacro %}
