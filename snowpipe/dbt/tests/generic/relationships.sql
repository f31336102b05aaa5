{# Unlike dbt's own test, which reads the whole other model, this one reads only the restated part of that model. #}
{% test relationships(model, column_name, to, field) %}
    -- depends_on: {{ ref('touched_days') }}
    SELECT child.{{ column_name }}
    FROM (SELECT {{ column_name }} FROM {{ model }}) AS child
    LEFT JOIN (
        SELECT {{ field }} AS parent_key FROM {{ to }} WHERE {{ restated_part(to.identifier | lower) }}
    ) AS parent
        ON child.{{ column_name }} = parent.parent_key
    WHERE child.{{ column_name }} IS NOT NULL AND parent.parent_key IS NULL
{% endtest %}
