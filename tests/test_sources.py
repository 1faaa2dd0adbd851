"""Data sets trained together: joints, masks, order, counts, and whose metric counts."""

import json

import cv2
import numpy as np
import pytest
import torch

