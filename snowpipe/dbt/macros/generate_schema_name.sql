{# The schema that the model names, without the target's as a prefix: STAGING and MARTS in every stage. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name or target.schema }}
{%- endmacro %}
