from l2ljax.errors import nearest


def test_message_names_the_nearest_and_lists_all_in_their_order():
    line = nearest("dataset", "cifar1O", ["svhn", "cifar10", "cifar100"])
    assert (
        line == "unknown dataset 'cifar1O': did you mean 'cifar10'? Known: svhn, cifar10, cifar100"
    )


def test_case_does_not_count():
    assert "did you mean 'SmallCNN'?" in nearest("model", "smallcnn", ["MLP", "SmallCNN", "WRN"])
    assert "did you mean 'mnist'?" in nearest("dataset", "MNIST", ["svhn", "mnist"])


def test_there_is_a_guess_however_far_the_name():
    assert (
        nearest("attack", "qqq", ["pgd"]) == "unknown attack 'qqq': did you mean 'pgd'? Known: pgd"
    )


def test_an_empty_table_gets_a_line_too():
    assert nearest("recipe", "x", []) == "unknown recipe 'x': Known: none"
