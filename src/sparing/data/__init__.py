"""What comes in from outside: tables of model outputs, and the samples that models run on."""
