"""What a refresh learns, from the rows that it has run, of where the new model's answers differ."""
