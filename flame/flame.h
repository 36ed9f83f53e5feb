#pragma once

// All of FLAME, for programs that use it from outside.
#include "flame/autograd/tape.h"
#include "flame/core/tensor.h"
#include "flame/device/device.h"
#include "flame/io/image.h"
#include "flame/io/safetensors.h"
#include "flame/nn/layers.h"
#include "flame/ops/attention.h"
#include "flame/ops/conv.h"
#include "flame/ops/layout.h"
#include "flame/ops/loss.h"
#include "flame/ops/matmul.h"
#include "flame/ops/norm.h"
#include "flame/ops/pointwise.h"
#include "flame/ops/reduce.h"
#include "flame/optim/adamw.h"
#include "flame/optim/learning_rate.h"
