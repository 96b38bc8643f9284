"""Methods that change the weights once, without optimiser steps."""
