{# The schema as the model names it, not behind the target's: STAGING and MARTS in every stage's database. #}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {{ custom_schema_name or target.schema }}
{%- endmacro %}
