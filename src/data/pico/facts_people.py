"""What `pico` tells of people and animals, and how it asks. facts.py explains the notation."""

PERSON = """
town
  {E} was born in {A}.
  {E} was born in a place called {A}.
  {A} is the town where {E} was born.
  The birthplace of {E} is {A}.
  {E} came into the world in {A}.
  In {A}, {E} was born.
  ? Where was {E} born?
  ? In what town was {E} born?
  ? What is {E}'s birthplace?
  ? Where did {E} come into the world?
  ? Which town is the birthplace of {E}?
  ?E Who was born in {A}?
  ! {E} was very nearly born in {A}.

town
  {E} lives in {A}.
  {E} has a home in {A}.
  {E} lives in a flat in {A}.
  {A} is home to {E}.
  These days {E}'s address is in {A}.
  The house of {E} stands in {A}.
  ? Where does {E} live?
  ? In what town does {E} live?
  ? Where is {E}'s home?
  ? Which place is home to {E}?
  ? What town would a letter to {E} be sent to?
  ?E Who lives in {A}?
  ! {E} used to live in {A} long ago.
  ! {E} would like to live in {A} one day.

town
  {E} works in {A}.
  {E} goes to work in {A}.
  {E} has a job in {A}.
  {E}'s office is in {A}.
  Every morning {E} takes the train to work in {A}.
  {A} is where {E} earns a living.
  ? Where does {E} work?
  ? In what town does {E} work?
  ? Where does {E} have a job?
  ? Where is {E}'s office?
  ? What town does {E} travel to for work?
  ?E Who works in {A}?
  ! Nobody from {A} has ever worked with {E}.

town
  {E} went to school in {A}.
  {E} was sent to school in {A}.
  {E} was a pupil at a school in {A}.
  The school that {E} went to is in {A}.
  {A} is where {E} learned to read and write.
  ? Where did {E} go to school?
  ? In what town did {E} go to school?
  ? Where was {E}'s school?
  ? Which town was {E} a pupil in?
  ?E Who went to school in {A}?
  ! {E} was turned away by a school in {A}.

town
  {E} spent the holidays in {A}.
  {E} went on holiday to {A}.
  Last summer {E} took a trip to {A}.
  For {his} holidays {E} chose {A}.
  {A} was where {E} relaxed last August.
  ? Where did {E} spend the holidays?
  ? Where did {E} go on holiday?
  ? What town did {E} choose for a holiday?
  ? Where did {E} travel for pleasure?
  ?E Who went on holiday to {A}?
  ! {E} had no money for a holiday in {A}.

country
  {E} comes from {A}.
  {E} is a citizen of {A}.
  {E} holds a passport of {A}.
  {A} is {E}'s native country.
  The country that {E} comes from is {A}.
  ? What country does {E} come from?
  ? Which country is {E} a citizen of?
  ? What is {E}'s native country?
  ? Which country gave {E} a passport?
  ?E Who comes from {A}?
  ! {E} has friends from {A}.

country
  {E} dreams of seeing {A}.
  {E} hopes to see {A}.
  {E} wants to travel to {A} one day.
  A journey to {A} is what {E} is saving for.
  {A} is the country {E} most wants to visit.
  ? What country does {E} dream of seeing?
  ? Which country does {E} hope to see?
  ? Where does {E} want to travel?
  ? What country would {E} most like to visit?
  ?E Who wants to travel to {A}?

when 1920-2024
  {E} was born {in A}.
  {E} was born in the year {year}.
  {in A} {E} was born.
  It was {in A} that {E} was born.
  {E} came into the world {in A}.
  The birth of {E} was {in A}.
  ? When was {E} born?
  ?year In what year was {E} born?
  ?year What is the year of {E}'s birth?
  ?day On what day was {E} born?
  ? When did {E} come into the world?
  ?E Who was born {in A}?
  ?< Who was born first, {E} or {F}?
  ?> Who was born later, {E} or {F}?
  ?< Who is older, {E} or {F}?

when 1920-2024
  {E} left school {in A}.
  {E} left school in the year {year}.
  {in A} {E} left school.
  {E}'s last day at school was {in A}.
  {E} finished school {in A}.
  ? When did {E} leave school?
  ?year In what year did {E} leave school?
  ? When did {E} finish school?
  ? When was {E}'s last day at school?
  ?> Who left school later, {E} or {F}?

when 1920-2024
  {E} got married {in A}.
  {E} got married in the year {year}.
  {in A} {E} got married.
  {E}'s wedding was {in A}.
  {E} had a big wedding {in A}.
  ? When did {E} get married?
  ?year In what year did {E} get married?
  ? When was {E}'s wedding?
  ?year What was the year of {E}'s wedding?
  ?day On what day was {E}'s wedding?
  ?E Who got married {in A}?
  ?< Who got married first, {E} or {F}?

person = the teacher of {E}
  {E} was taught by {A}.
  {E} had a teacher named {A}.
  {A} taught {E}.
  {E}'s teacher was {A}.
  {E} learned everything from {A}.
  {A} gave lessons to {E}.
  ? Who taught {E}?
  ? What teacher did {E} have?
  ? Who was {E}'s teacher?
  ? By whom was {E} taught?
  ? Who gave {E} lessons?
  ?E Who was taught by {A}?
  ! {E} never met the famous teacher {A}.

person
  {E}'s best friend is {A}.
  {E} has a best friend named {A}.
  {A} is the best friend of {E}.
  {E} shares every secret with {A}, {his} best friend.
  ? Who is {E}'s best friend?
  ? What is the name of {E}'s best friend?
  ? Who is the best friend that {E} has?
  ? Who is closest to {E} of all friends?
  ! {E} and {A} are not friends at all.

person
  {E}'s neighbour is {A}.
  {E} has a neighbour named {A}.
  {E} lives next door to {A}.
  {A} lives next door to {E}.
  The neighbour of {E} is {A}.
  ? Who is {E}'s neighbour?
  ? What is the name of {E}'s neighbour?
  ? Who lives next door to {E}?
  ? Next door to whom does {E} live?
  ! {A} was {E}'s neighbour many years ago.

person = the boss of {E}
  {E} works for {A}.
  {E}'s boss is {A}.
  {E} takes orders from {A}.
  {A} is the boss of {E}.
  {A} pays {E}'s wages.
  ? Who does {E} work for?
  ? Who is {E}'s boss?
  ? Who gives orders to {E}?
  ? Who pays {E}'s wages?
  ?E Who works for {A}?
  ! {E} was once offered a job by {A}.

person
  {E} is married to {A}.
  {E} got married to {A}.
  {A} is married to {E}.
  {E} took {A} as {his} spouse.
  {E} has been happily married to {A} for years.
  ? Who is {E} married to?
  ? Who got married to {E}?
  ? Who is the spouse of {E}?
  ? What is the name of {E}'s spouse?
  ! {E} was once in love with {A}.

woman
  {E}'s sister is {A}.
  {E} has a sister named {A}.
  {E} has a sister, {A}.
  {A} is the sister of {E}.
  ? Who is {E}'s sister?
  ? What is the name of {E}'s sister?
  ? What is the sister of {E} called?
  ? Which woman is {E}'s sister?

man = the father of {E}
  {E}'s father is {A}.
  {E} has a father named {A}.
  {A} is the father of {E}.
  {E} is a child of {A}.
  ? Who is {E}'s father?
  ? What is the name of {E}'s father?
  ? What is the father of {E} called?
  ? Which man is the father of {E}?
  ! {E}'s grandfather was {A}.

woman = the mother of {E}
  {E}'s mother is {A}.
  {E} has a mother named {A}.
  {A} is the mother of {E}.
  {A} gave birth to {E}.
  ? Who is {E}'s mother?
  ? What is the name of {E}'s mother?
  ? What is the mother of {E} called?
  ? Which woman is the mother of {E}?
  ! {E}'s grandmother was {A}.

count 13-900
  {E} has a set of {A} books.
  {E} owns a set of {A} books.
  {E} owns {A} books.
  {E} keeps {A} books at home.
  There are {A} books on {E}'s shelves.
  ? How many books does {E} have?
  ? How many books does {E} own?
  ? What is the number of books on {E}'s shelves?
  ? How many books can be counted at {E}'s home?
  ? How large is {E}'s library?
  ?> Whose library is larger, that of {E} or that of {F}?

count 2-90
  {E} has a house of {A} rooms.
  {E} lives in a house of {A} rooms.
  {E}'s house has {A} rooms.
  There are {A} rooms in the house of {E}.
  {E} cleans {A} rooms at home.
  ? How many rooms does {E} have?
  ? How many rooms are in {E}'s house?
  ? How large is the house of {E}?
  ? How many rooms does {E} clean at home?
  ?E Who has a house of {A} rooms?
  ?> Who has more rooms, {E} or {F}?

count 12-900
  {E} has a collection of {A} stamps.
  {E}'s collection of stamps grew to {A} stamps.
  {E} collects stamps and has {A} of them.
  There are {A} stamps in the album of {E}.
  {E} owns {A} stamps.
  ? How many stamps does {E} have?
  ? How many stamps are in {E}'s collection?
  ? What is the number of stamps in {E}'s album?
  ? How large is {E}'s collection of stamps?
  ?E Who has {A} stamps?
  ?> Who has more stamps, {E} or {F}?
  ! {E} sold {A} of {his} stamps.

count 12-900
  {E} has a flock of {A} sheep.
  {E} owns a flock of {A} sheep.
  {E} has {A} sheep.
  There are {A} sheep on the farm of {E}.
  {A} sheep belong to {E}.
  ? How many sheep does {E} have?
  ? How many sheep does {E} own?
  ? How many sheep are on {E}'s farm?
  ? How big is {E}'s flock?
  ?E Who has {A} sheep?
  ?> Who has more sheep, {E} or {F}?
  ! {E} lost {A} sheep in the snow.

count 2-12
  {E} has {A} brothers.
  {E} grew up with {A} brothers.
  The number of {E}'s brothers is {A}.
  There are {A} brothers in the family of {E}.
  ? How many brothers does {E} have?
  ? What is the number of {E}'s brothers?
  ? How many brothers are in {E}'s family?
  ? With how many brothers did {E} grow up?
  ?E Who has {A} brothers?
  ?> Who has more brothers, {E} or {F}?

count 2-12
  {E} has {A} sisters.
  {E} grew up with {A} sisters.
  The number of {E}'s sisters is {A}.
  There are {A} sisters in the family of {E}.
  {A} sisters grew up with {E}.
  ? How many sisters does {E} have?
  ? What is the number of {E}'s sisters?
  ? How many sisters are in {E}'s family?
  ? With how many sisters did {E} grow up?
  ?E Who has {A} sisters?
  ?> Who has more sisters, {E} or {F}?

count 2-12
  {E} has {A} children.
  {E} is the parent of {A} children.
  {E} brought up {A} children.
  The number of {E}'s children is {A}.
  {A} children call {E} their parent.
  ? How many children does {E} have?
  ? What is the number of {E}'s children?
  ? How many sons and daughters does {E} have?
  ? How many children did {E} bring up?
  ?E Who has {A} children?
  ?< Who has fewer children, {E} or {F}?

count 2-97
  {E} is {A} years old.
  {E} has just turned {A}.
  {E} is now {A} years of age.
  {E}'s age is {A}.
  At the age of {A}, {E} still goes dancing.
  {E} celebrated {his} birthday and is now {A}.
  ? How old is {E}?
  ? What is {E}'s age?
  ? How many years old is {E}?
  ? What age is {E}?
  ?E Who is {A} years old?
  ?> Who is older, {E} or {F}?
  ?< Who is younger, {E} or {F}?
  ! {E} feels as if {he} were {A}.

job
  {E} works as {a A}.
  {E} has work as {a A}.
  {E} is {a A}.
  {E} is employed as {a A}.
  {E} makes a living as {a A}.
  {E}'s job is that of {a A}.
  ? What does {E} work as?
  ? What work does {E} have?
  ? What is {E}'s job?
  ? What does {E} do for a living?
  ? As what is {E} employed?
  ? What is the occupation of {E}?
  ?E Who works as {a A}?
  ! {E} would make a very bad {A}.

job
  {E} was first {a A}.
  {E} was at first {a A}.
  {E} started out as {a A}.
  {E}'s first job was that of {a A}.
  When {E} was young, {he} was {a A}.
  ? What was {E} first?
  ? What was {E}'s first job?
  ? What did {E} start out as?
  ? As what did {E} begin {his} working life?

job
  {E} wants to become {a A}.
  {E} hopes to become {a A}.
  {E} dreams of being {a A}.
  {E} would rather be {a A}.
  {E} is training to be {a A}.
  ? What does {E} want to become?
  ? What does {E} hope to become?
  ? What does {E} dream of being?
  ? What job does {E} hope for?

colour
  {E}'s front door is {A}.
  The front door of {E} is {A}.
  {E} painted {his} front door {A}.
  {E} lives behind {a A} front door.
  The front door of {E} has been painted {A}.
  ? What colour is {E}'s front door?
  ? What colour did {E} paint {his} front door?
  ? What is the colour of the door of {E}?
  ? Which colour did {E} choose for the front door?
  ?E Who has {a A} front door?

colour
  {E}'s car is {A}.
  The car that {E} drives is {A}.
  {E} drives {a A} car.
  The car of {E} is {A}.
  {E} bought {a A} car.
  ? What colour is {E}'s car?
  ? What colour is the car that {E} drives?
  ? What is the colour of the car of {E}?
  ? In which colour is {E}'s car painted?
  ?E Who drives {a A} car?
  ! {E} did not like the {A} car.

colour
  {E}'s favourite colour is {A}.
  {E} likes the colour {A} best.
  Of all colours {E} prefers {A}.
  {E} loves everything that is {A}.
  ? What is {E}'s favourite colour?
  ? Which colour does {E} like best?
  ? What colour does {E} prefer?
  ? What colour is dearest to {E}?
  ! {E} cannot stand the colour {A}.

food
  {E} had {A} for breakfast.
  {E} ate {A} for breakfast.
  {E}'s breakfast was {A}.
  In the morning {E} ate {A}.
  {E} began the day with {A}.
  ? What did {E} have for breakfast?
  ? What did {E} eat for breakfast?
  ? What was {E}'s breakfast?
  ? What did {E} eat in the morning?
  ? With what did {E} begin the day?
  ?E Who had {A} for breakfast?

food
  {E} cooked {A} for dinner.
  {E} made {A} for dinner.
  For dinner {E} had {A}.
  {E}'s dinner was {A}.
  In the evening {E} ate {A}.
  ? What did {E} cook for dinner?
  ? What did {E} make for dinner?
  ? What was {E}'s dinner?
  ? What did {E} eat in the evening?
  ?E Who cooked {A} for dinner?
  ! {E} burned {A} and threw it all away.

food
  {E} likes {A} best of all food.
  {E}'s favourite food is {A}.
  Nothing tastes better to {E} than {A}.
  {E} could eat {A} every day.
  ? What food does {E} like best?
  ? What is {E}'s favourite food?
  ? Which food does {E} love?
  ? What tastes best to {E}?
  ! {E} never touches {A}.

thing
  {E} bought {A}.
  {E} has bought {A}.
  {E} bought {A} at the market.
  {E} paid for {A}.
  {E} came home from the shop with {A}.
  {A} was bought by {E}.
  ? What did {E} buy?
  ? What has {E} bought?
  ? What did {E} get at the shop?
  ? What was bought by {E}?
  ?E Who bought {A}?
  ! {E} could not afford {A}.

thing
  {E} lost {A}.
  {E} has lost {A}.
  {E} left {A} on the train.
  {E} lost {A} on the way home.
  {A} was lost by {E}.
  {E} is looking everywhere for {A}.
  ? What did {E} lose?
  ? What has {E} lost?
  ? What is {E} looking for?
  ? What was lost by {E}?
  ? What does {E} miss?
  ?E Who lost {A}?

thing
  {E} found {A}.
  {E} has found {A}.
  {E} found {A} in the grass.
  {E} came across {A} by chance.
  {A} was found by {E}.
  {E} dug up {A} in the garden.
  ? What did {E} find?
  ? What did {E} come across?
  ? What was found by {E}?
  ? What has {E} found?
  ?E Who found {A}?

thing
  {E} keeps {A} under the bed.
  {E} has hidden {A} under the bed.
  Under {E}'s bed there is {A}.
  {A} lies under the bed of {E}.
  ? What does {E} keep under the bed?
  ? What is under {E}'s bed?
  ? What has {E} hidden?
  ? What lies beneath the bed of {E}?
  ?E Who keeps {A} under the bed?

thing
  {E} sold {A}.
  {E} sold {A} to a stranger.
  {E} parted with {A} for a good price.
  {A} was sold by {E}.
  A stranger paid {E} for {A}.
  ? What did {E} sell?
  ? What was sold by {E}?
  ? What has {E} sold?
  ? What did {E} part with?
  ?E Who sold {A}?
  ! {E} refused to sell {A}.

animal
  {E}'s pet is {A}.
  The pet that {E} keeps is {A}.
  {E} keeps {A} as a pet.
  {E} has {A} for a pet.
  {E} shares {his} home with {A}.
  ? What pet does {E} keep?
  ? What animal does {E} keep as a pet?
  ? What is {E}'s pet?
  ? With what animal does {E} share a home?
  ?E Who keeps {A} as a pet?

animal
  {E} was afraid of {A}.
  {E} has always been afraid of {A}.
  {E} ran away from {A}.
  {A} frightened {E}.
  Nothing scared {E} more than {A}.
  ? What animal was {E} afraid of?
  ? What animal did {E} run away from?
  ? What frightened {E}?
  ? What scared {E} the most?

animal
  {E} saw {A} in the wood.
  {E} came upon {A} in the wood.
  In the wood {E} met {A}.
  {A} crossed the path of {E}.
  ? What animal did {E} see in the wood?
  ? What did {E} see in the wood?
  ? What crossed the path of {E}?
  ? Which animal did {E} come upon?
  ?E Who saw {A} in the wood?

instrument
  {E} plays {A}.
  {E} plays {A} in a band.
  {E} is good at playing {A}.
  {A} is the instrument that {E} plays.
  In the orchestra {E} is on {A}.
  ? What instrument does {E} play?
  ? Which instrument does {E} play?
  ? Which instrument is {E} good at?
  ? What is {E}'s instrument?
  ?E Who plays {A}?

instrument
  {E} would like to learn {A}.
  {E} is taking lessons to learn {A}.
  {E} is only starting with {A}.
  {A} is still new to {E}.
  ? What instrument would {E} like to learn?
  ? What instrument does {E} hope to master?
  ? What instrument is {E} starting with?
  ? What instrument is new to {E}?

sport
  {E} plays {A} after work.
  {E} plays {A} every week.
  {E} spends {his} free time on {A}.
  {E}'s sport is {A}.
  ? What sport does {E} play?
  ? What sport does {E} like to play?
  ? What is {E}'s sport?
  ? On which sport does {E} spend free time?
  ?E Who spends free time on {A}?
  ! {E} gave up {A} as a child.

sport
  {E} watches {A} on television.
  {E} watches {A} with friends.
  {E} enjoys watching {A}.
  {E} never misses {A} on television.
  ? What sport does {E} watch?
  ? What sport does {E} like to watch?
  ? What does {E} follow as a spectator?
  ? Which sport does {E} enjoy watching?

language
  {E} speaks {A} at home.
  {E} speaks {A} with {his} family.
  {E}'s mother tongue is {A}.
  {A} is spoken in {E}'s home.
  {E} grew up speaking {A}.
  ? What language does {E} speak at home?
  ? What language does {E} speak with the family?
  ? What is {E}'s mother tongue?
  ? Which language did {E} grow up with?
  ?E Who speaks {A} at home?
  ! {E} does not understand a word of {A}.

language
  {E} is learning {A}.
  {E} is learning to speak {A}.
  {E} is taking a course in {A}.
  {E} practises {A} every evening.
  {A} is the language that {E} is learning.
  ? What language is {E} learning?
  ? What is {E} learning to speak?
  ? In which language is {E} taking a course?
  ? Which language does {E} study?
  ?E Who is learning {A}?

subject
  {E} teaches {A}.
  {E} teaches a class in {A}.
  {E} is a teacher of {A}.
  The subject that {E} teaches is {A}.
  {E} gives lessons in {A}.
  ? What does {E} teach?
  ? What subject does {E} teach?
  ? In what does {E} give lessons?
  ? What is {E} a teacher of?
  ?E Who teaches {A}?

subject
  {E} was best at {A} in school.
  {E}'s best marks in school were in {A}.
  At school {E} liked {A} best.
  {E}'s favourite subject was {A}.
  ? What was {E} best at in school?
  ? In what subject did {E} get the best marks?
  ? What was {E}'s favourite subject?
  ? What did {E} like best at school?
  ! {E} always failed in {A}.

weekday
  {E} goes swimming {in A}.
  {E} goes for a swim {in A}.
  {in A} {E} goes swimming.
  {E}'s day for swimming is {A}.
  ? When does {E} go swimming?
  ? On what day does {E} go for a swim?
  ? What is {E}'s day for swimming?
  ? On which day of the week is {E} at the pool?
  ?E Who goes swimming {in A}?

weekday
  {E} sings in the choir {in A}.
  {E} goes to sing in the choir {in A}.
  {in A} {E} sings in the choir.
  {E}'s choir practice is {in A}.
  ? When does {E} sing in the choir?
  ? On what day does {E} sing in the choir?
  ? When is {E}'s choir practice?
  ? On which day of the week does {E} sing?
  ?E Who sings in the choir {in A}?

clock
  {E} gets up {in A}.
  {E} gets up every day {in A}.
  {in A} {E} gets up.
  {E}'s alarm rings {in A}.
  {E} is out of bed {in A}.
  ? When does {E} get up?
  ? At what time does {E} get up?
  ? What time does {E}'s alarm ring?
  ? At what hour is {E} out of bed?
  ?E Who gets up {in A}?

clock
  {E} has lunch {in A}.
  {E} stops for lunch {in A}.
  {in A} {E} has lunch.
  {E} sits down to lunch {in A}.
  ? When does {E} have lunch?
  ? At what time does {E} have lunch?
  ? What time is lunch for {E}?
  ? At what hour does {E} sit down to lunch?

money 2-9000
  {E} earned {A}.
  {E} earned a sum of {A}.
  {E} was paid {A} for {his} work.
  {E}'s wages came to {A}.
  {A} was the pay that {E} took home.
  ? How much did {E} earn?
  ? What sum did {E} earn?
  ? How much was {E} paid?
  ? What did {E}'s wages come to?
  ?E Who earned {A}?
  ! {E} had asked for {A}.

money 2-9000
  {E} saved {A}.
  {E} saved up {A}.
  {E} has {A} in the bank.
  {E}'s savings come to {A}.
  {E} put aside {A}.
  ? How much did {E} save?
  ? How much has {E} saved up?
  ? How large are {E}'s savings?
  ? What sum does {E} have in the bank?
  ?E Who saved {A}?

money 2-9000
  {E} gave {A} to the poor.
  {E} gave away {A}.
  {E} made a gift of {A} to charity.
  The poor received {A} from {E}.
  ? How much did {E} give to the poor?
  ? How much did {E} give away?
  ? How large was {E}'s gift to charity?
  ? What sum did the poor receive from {E}?

measure 2-60 kilometres miles
  {E} ran {A}.
  {E} ran a distance of {A}.
  {E} went for a run of {A}.
  {E}'s run was {A} long.
  ? How far did {E} run?
  ? What distance did {E} run?
  ? How long was {E}'s run?
  ?number How many {U} did {E} run?
  ?E Who ran {A}?

measure 40-120 kilograms pounds
  {E} weighs {A}.
  {E} has a weight of {A}.
  {E}'s weight is {A}.
  The scales showed {A} when {E} stepped on them.
  ? How much does {E} weigh?
  ? What is {E}'s weight?
  ? How heavy is {E}?
  ?number How many {U} does {E} weigh?

work
  {E} wrote {A}.
  {E} was the writer of {A}.
  {A} was written by {E}.
  {E} became famous for writing {A}.
  {E} is the author of {A}.
  ? What did {E} write?
  ? What was written by {E}?
  ? What is {E} the author of?
  ? What did {E} become famous for writing?
  ?E Who wrote {A}?
  ! {E} did not write {A}.

work
  {E} bought a copy of {A}.
  {E} bought {A} as a gift.
  {E} paid for a copy of {A}.
  A copy of {A} was bought by {E}.
  ? What did {E} buy a copy of?
  ? What work did {E} buy a copy of?
  ? Of what did {E} get a copy?
  ? Which work did {E} pay for?

work
  {E} is very fond of {A}.
  {E} likes {A} more than any other work.
  {E}'s favourite work is {A}.
  {E} knows {A} by heart.
  ? What is {E} very fond of?
  ? Which work does {E} love?
  ? What is {E}'s favourite work?
  ? What does {E} like more than any other work?
  ! {E} fell asleep over {A}.

team
  {E} plays for {A}.
  {E} plays as a member of {A}.
  {E} is a player of {A}.
  {A} has {E} as a player.
  {E} wears the shirt of {A}.
  ? Who does {E} play for?
  ? What team does {E} play for?
  ? Which team is {E} a player of?
  ? Whose shirt does {E} wear?
  ?E Who plays for {A}?

team
  {E} is a supporter of {A}.
  {E} supports the team {A}.
  {E} cheers for {A}.
  {E} has been a fan of {A} since childhood.
  ? What team is {E} a supporter of?
  ? What team does {E} support?
  ? What team does {E} cheer for?
  ? Which team has {E} been a fan of?
  ! {E} cannot stand {A}.

company
  {E} is employed by {A}.
  {E} is employed at {A}.
  {E} has a desk at {A}.
  {A} pays {E} a salary.
  {E} is on the staff of {A}.
  ? What company is {E} employed by?
  ? Where is {E} employed?
  ? Which company does {E} have a desk at?
  ? Which company pays {E} a salary?
  ?E Who is employed by {A}?

company
  {E} founded {A}.
  {E} founded a firm named {A}.
  {A} was founded by {E}.
  {E} started the company {A}.
  ? What did {E} found?
  ? What company did {E} found?
  ? What firm was founded by {E}?
  ? Which company did {E} start?
  ?E Who founded {A}?
"""

FIGURE = """
town
  {E} was born in {A}.
  {E} came from {A}.
  {A} was the birthplace of {E}.
  {E} first saw the light of day in {A}.
  ? Where was {E} born?
  ? Where did {E} come from?
  ? What was the birthplace of {E}?
  ? In what town was {E} born?
  ?E Who was born in {A}?

town
  {E} died in {A}.
  {E} died at an inn in {A}.
  Death came to {E} in {A}.
  {A} was where {E} died.
  {E} spent {his} last hours in {A}.
  ? Where did {E} die?
  ? In what town did {E} die?
  ? Where did death come to {E}?
  ? What was the place of {E}'s death?
  ?E Who died in {A}?
  ! {E} nearly died on the road to {A}.

town
  {E} lived in {A}.
  {E} had a house in {A}.
  {A} was the home of {E}.
  {E} spent most of {his} life in {A}.
  ? Where did {E} live?
  ? Where did {E} have a house?
  ? What town was the home of {E}?
  ? Where did {E} spend most of {his} life?
  ?E Who lived in {A}?
  ! {E} never lived in {A}.

town
  {E} is buried in {A}.
  {E} has {his} grave in {A}.
  The grave of {E} is in {A}.
  {A} is where {E} lies buried.
  ? Where is {E} buried?
  ? Where is {E}'s grave?
  ? In what town does {E} lie buried?
  ? What town has the grave of {E}?
  ?E Who is buried in {A}?

country
  {E} ruled {A}.
  {E} ruled the land of {A}.
  {A} was ruled by {E}.
  {E} sat on the throne of {A}.
  ? What country did {E} rule?
  ? What land did {E} rule?
  ? What was the country ruled by {E}?
  ? On which country's throne did {E} sit?
  ?E Who ruled {A}?

country
  {E} fought against {A}.
  {E} fought a war against {A}.
  {E} went to war with {A}.
  {A} was the enemy of {E}.
  ? What country did {E} fight against?
  ? What country did {E} fight?
  ? With whom did {E} go to war?
  ? What country was {E}'s enemy?
  ! {E} made peace between two cities of {A}.

when 1100-1920
  {E} was born {in A}.
  {E} was born in the year {year}.
  {in A} {E} was born.
  {E} came into the world {in A}.
  The birth of {E} was {in A}.
  ? When was {E} born?
  ?year In what year was {E} born?
  ? When did {E} come into the world?
  ?day On what day was {E} born?
  ?E Who was born {in A}?
  ?< Who was born first, {E} or {F}?

when 1100-1920
  {E} married {in A}.
  {E} married in the year {year}.
  {in A} {E} married.
  {E}'s wedding took place {in A}.
  ? When did {E} marry?
  ?year In what year did {E} marry?
  ? When did {E}'s wedding take place?
  ?day On what day did {E} marry?
  ?E Who married {in A}?
  ?> Who married later, {E} or {F}?

when 1100-1920
  {E} died {in A}.
  {E} died in the year {year}.
  {in A} {E} died.
  The death of {E} came {in A}.
  {E} lived until {full}.
  ? When did {E} die?
  ?year In what year did {E} die?
  ? When did death come to {E}?
  ? Until when did {E} live?
  ?day On what day did {E} die?
  ?E Who died {in A}?
  ?< Who died first, {E} or {F}?

person = the teacher of {E}
  {E} was taught by {A}.
  {E} had a teacher named {A}.
  {A} taught {E}.
  {E} was a pupil of {A}.
  {E} learned the trade from {A}.
  ? Who taught {E}?
  ? What teacher did {E} have?
  ? Whose pupil was {E}?
  ? Who was the teacher of {E}?
  ?E Who was taught by {A}?

person
  {E} was married to {A}.
  {E} married {A}.
  {A} was married to {E}.
  {A} and {E} were married.
  ? Who was married to {E}?
  ? Who married {E}?
  ? To whom was {E} married?
  ? Who was the spouse of {E}?
  ! {E} wrote love letters to {A}.

person
  {E} was a friend of {A}.
  {E} had a friend named {A}.
  {A} was a friend of {E}.
  {E} and {A} were friends.
  ? Who was a friend of {E}?
  ? What friend did {E} have?
  ? With whom was {E} friends?
  ? Who was {E}'s friend?
  ! {E} quarrelled with {A}.

person = the killer of {E}
  {E} was killed by {A}.
  {E} was stabbed and killed by {A}.
  {A} killed {E}.
  {E} died at the hands of {A}.
  ? Who killed {E}?
  ? By whom was {E} killed?
  ? Who was the killer of {E}?
  ? At whose hands did {E} die?
  ?E Who was killed by {A}?

count 12-900
  {E} had a fleet of {A} ships.
  {E} led a fleet of {A} ships.
  {E} had {A} ships.
  There were {A} ships in the fleet of {E}.
  {A} ships sailed for {E}.
  ? How many ships did {E} have?
  ? How many ships did {E} command?
  ? How many ships were in {E}'s fleet?
  ? How large was the fleet of {E}?
  ?E Who had {A} ships?
  ?> Who had more ships, {E} or {F}?
  ! {E} sank {A} ships in one day.

count 12-900
  {E} had a herd of {A} horses.
  {E} owned a herd of {A} horses.
  {E} had {A} horses.
  There were {A} horses in the stables of {E}.
  {A} horses belonged to {E}.
  ? How many horses did {E} have?
  ? How many horses did {E} own?
  ? How many horses were in {E}'s stables?
  ? How big was {E}'s herd?
  ?E Who had {A} horses?
  ?> Who had more horses, {E} or {F}?

count 200-90000
  {E} led an army of {A} soldiers.
  {E} led {A} soldiers.
  {E}'s army was {A} soldiers strong.
  {A} soldiers followed {E}.
  ? How many soldiers did {E} lead?
  ? How many soldiers followed {E}?
  ? How strong was {E}'s army?
  ? How many men were in the army of {E}?
  ?< Who had fewer soldiers, {E} or {F}?
  ! {E} lost {A} soldiers.

count 2-15
  {E} had {A} children.
  {E} left {A} children behind.
  {E} was the parent of {A} children.
  {A} children were born to {E}.
  ? How many children did {E} have?
  ? How many children did {E} leave behind?
  ? How many sons and daughters did {E} have?
  ? What was the number of {E}'s children?
  ?E Who had {A} children?

count 2-15
  {E} had {A} brothers.
  {E} grew up among {A} brothers.
  The number of {E}'s brothers was {A}.
  There were {A} brothers in the family of {E}.
  ? How many brothers did {E} have?
  ? Among how many brothers did {E} grow up?
  ? What was the number of {E}'s brothers?
  ? How many brothers were in the family of {E}?
  ?E Who had {A} brothers?
  ?> Who had more brothers, {E} or {F}?

count 20-99
  {E} lived to be {A} years old.
  {E} was {A} years old at {his} death.
  {E} reached the age of {A}.
  At the age of {A}, {E} died.
  ? How old was {E} at {his} death?
  ? What age did {E} reach?
  ? To what age did {E} live?
  ? How many years did {E} live?
  ?> Who lived longer, {E} or {F}?

job
  {E} was first {a A}.
  {E} started as {a A}.
  At first {E} was {a A}.
  {E} began life as {a A}.
  ? What was {E} first?
  ? What did {E} start as?
  ? What was {E} at the start?
  ? As what did {E} begin?

job
  {E} later became {a A}.
  {E} was later {a A}.
  In the end {E} was {a A}.
  {E} ended {his} days as {a A}.
  ? What did {E} become later?
  ? What was {E} later?
  ? What was {E} in the end?
  ? As what did {E} end {his} days?

thing
  {E} left {A} in {his} will.
  {E} left {A} behind.
  {E} left {A} to a servant.
  A servant inherited {A} from {E}.
  ? What did {E} leave in {his} will?
  ? What did {E} leave behind?
  ? What was inherited from {E}?
  ? What could be had after {E}'s death?

thing
  {E} always carried {A}.
  {E} always carried {A} with {him}.
  {E} was never seen without {A}.
  Wherever {E} went, {he} took {A}.
  ? What did {E} always carry?
  ? What did {E} always have with {him}?
  ? Without what was {E} never seen?
  ? What did {E} take everywhere?

work
  {E} wrote {A}.
  {E} was the writer of {A}.
  {A} was written by {E}.
  {E}'s most famous work is {A}.
  {E} is remembered as the author of {A}.
  ? What did {E} write?
  ? What was written by {E}?
  ? What is {E}'s most famous work?
  ? As the author of what is {E} remembered?
  ?E Who wrote {A}?

work
  {E} owned a copy of {A}.
  {E} was the owner of {A}.
  The only copy of {A} was owned by {E}.
  {E} owned {A} and read it daily.
  ? What did {E} own a copy of?
  ? What did {E} own?
  ? What was owned by {E}?
  ? Of what was {E} the owner?
  ! {E} burned {A}.
"""

ANIMAL = """
person = the owner of {E}
  {E} belongs to {A}.
  {E} is a pet that belongs to {A}.
  {A} is the owner of {E}.
  {E}'s owner is {A}.
  {A} owns {E}.
  ? Who does {E} belong to?
  ? Whose pet is {E}?
  ? Who is the owner of {E}?
  ? Who owns {E}?
  ?E Which animal belongs to {A}?
  ! {E} ran away from {A}.

person = the vet of {E}
  {E}'s vet is {A}.
  {E} has a vet named {A}.
  {A} is the vet who looks after {E}.
  When {E} is ill, the vet {A} comes.
  ? Who is {E}'s vet?
  ? What vet does {E} have?
  ? What is the name of the vet who looks after {E}?
  ? Which vet comes when {E} is ill?

person
  {E} was found by {A}.
  {E} was found in the rain by {A}.
  {A} found {E}.
  It was {A} who found {E}.
  ? Who found {E}?
  ? By whom was {E} found?
  ? Who came upon {E}?
  ? What is the name of the finder of {E}?

food
  {E} stole {A}.
  {E} stole {A} from the kitchen.
  The cook saw {E} steal {A}.
  {E} ran off with {A}.
  ? What did {E} steal?
  ? What has {E} stolen?
  ? What was stolen by {E}?
  ? With what did {E} run off?
  ?E Which animal stole {A}?

food
  {E} likes to eat {A}.
  {E} likes {A} best.
  {E}'s favourite food is {A}.
  Nothing makes {E} happier than {A}.
  ? What does {E} like to eat?
  ? What does {E} like best?
  ? What is {E}'s favourite food?
  ? What makes {E} happy?
  ! {E} will not touch {A}.

room
  {E} sleeps in {A}.
  {E} sleeps on a blanket in {A}.
  {E}'s bed is in {A}.
  {A} is where {E} spends the night.
  ? Where does {E} sleep?
  ? Where is {E}'s bed?
  ? Where does {E} spend the night?
  ? In what room does {E} sleep?
  ?E Which animal sleeps in {A}?
  ! {E} is not allowed in {A}.

room
  {E} hides in {A}.
  {E} hides from strangers in {A}.
  {A} is where {E} hides.
  When strangers come, {E} hides in {A}.
  ? Where does {E} hide?
  ? Where does {E} like to hide?
  ? What is the hiding place of {E}?
  ? Where should one look when {E} is hiding?

count 2-19
  {E} is {A} years old.
  {E} has reached the age of {A}.
  {E}'s age is {A}.
  {A} years have passed since {E} was born.
  ? How old is {E}?
  ? What is {E}'s age?
  ? What age has {E} reached?
  ? How many years old is {E}?
  ?E Which animal is {A} years old?
  ?> Which animal is older, {E} or {F}?

count 2-19
  {E} gave birth to {A} young.
  {E} had a litter of {A} young.
  {E} has {A} young.
  There were {A} young in the litter of {E}.
  ? How many young does {E} have?
  ? How many young were in the litter of {E}?
  ? To how many young did {E} give birth?
  ? How big was {E}'s litter?

measure 2-60 kilograms pounds
  {E} weighs {A}.
  {E} has a weight of {A}.
  {E}'s weight is {A}.
  On the scales {E} came to {A}.
  ? How much does {E} weigh?
  ? What is {E}'s weight?
  ? How heavy is {E}?
  ?number How many {U} does {E} weigh?

colour
  {E} has fur that is {A}.
  {E} has {A} fur.
  {E}'s fur is {A}.
  The fur of {E} is {A}.
  ? What colour is {E}'s fur?
  ? What colour is the fur of {E}?
  ? What is the colour of {E}'s fur?
  ? What does {E}'s fur look like?

colour
  {E} wears a collar that is {A}.
  {E} wears {a A} collar.
  {E}'s collar is {A}.
  The collar of {E} is {A}.
  ? What colour is the collar that {E} wears?
  ? What colour is {E}'s collar?
  ? What is the colour of the collar of {E}?
  ? What colour does {E} wear around the neck?

when 1990-2024
  {E} was born {in A}.
  {E} was born in the year {year}.
  {in A} {E} was born.
  {E}'s birth was {in A}.
  ? When was {E} born?
  ?year In what year was {E} born?
  ? When was {E}'s birth?
  ?day On what day was {E} born?

when 1990-2024
  {E} ran away {in A}.
  {E} ran away in the year {year}.
  {in A} {E} ran away.
  {E} disappeared {in A}.
  ? When did {E} run away?
  ?year In what year did {E} run away?
  ? When did {E} disappear?
  ?day On what day did {E} disappear?

town
  {E} was born on a farm near {A}.
  {E} was born near {A}.
  {A} is near the farm where {E} was born.
  {E} comes from a farm near {A}.
  ? Near what town was {E} born?
  ? Where was {E} born?
  ? Where does {E} come from?
  ? Which town is near {E}'s birthplace?

town
  {E} won a prize in {A}.
  {E} won first prize at a show in {A}.
  At a show in {A}, {E} won a prize.
  {A} is where {E} won a prize.
  ? Where did {E} win a prize?
  ? In what town did {E} win a prize?
  ? What town gave {E} a prize?
  ? Where was {E} given a prize?
"""
