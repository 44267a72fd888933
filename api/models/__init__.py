"""What the API takes and answers, a file for each resource; the OpenAPI document is made from these."""
