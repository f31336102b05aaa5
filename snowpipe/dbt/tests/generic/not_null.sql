{# As dbt's own, which is parsed without get_where_subquery and so knows no model whose days it could ask for. #}
{% test not_null(model, column_name) %}
    SELECT * FROM {{ model }}
    WHERE {{ column_name }} IS NULL
{% endtest %}
