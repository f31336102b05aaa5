{# Like dbt's own test; the comment in not_null.sql explains why this one exists. #}
{% test unique(model, column_name) %}
    SELECT {{ column_name }}
    FROM {{ model }}
    WHERE {{ column_name }} IS NOT NULL
    GROUP BY {{ column_name }}
    HAVING COUNT(*) > 1
{% endtest %}
