{# Like dbt's own test, which is parsed without get_where_subquery and so cannot be limited to the restated rows. #}
{% test not_null(model, column_name) %}
    SELECT * FROM {{ model }}
    WHERE {{ column_name }} IS NULL
{% endtest %}
